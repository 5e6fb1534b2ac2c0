"""`python -m jaxcodec`, and the command `jaxcodec`."""

import sys

from jaxcodec.runtime import restart_tuned

__all__ = ["main"]

# not "train": where it was seen to differ, its step took longer in a tuned process
TUNED = ("encode", "decode", "evaluate", "export")


def main() -> None:
    """Runs the command line, in a process that suits it."""
    if sys.argv[1:2] and sys.argv[1] in TUNED:
        restart_tuned()  # before the imports, which would be made twice
    from jaxcodec import cli

    cli.main()


if __name__ == "__main__":
    main()
