"""`python -m jaxcodec`, and the command `jaxcodec`."""

import sys

from jaxcodec.runtime import leave, restart_tuned, uncollected

__all__ = ["main"]

# not "train": where it was seen to differ, its step took longer in a tuned process
TUNED = ("encode", "decode", "evaluate", "export")
# what has written all that it makes, and has no other process, when it returns
DONE = ("encode", "decode", "peel", "info", "models")


def main() -> None:
    """Runs the command line, in a process that suits it."""
    if sys.argv[1:2] and sys.argv[1] in TUNED:
        restart_tuned()  # before the imports, which would be made twice
    with uncollected():
        from jaxcodec import cli

    try:
        cli.main()
    except SystemExit as done:
        if sys.argv[1:2] and sys.argv[1] in DONE and isinstance(done.code, int):
            leave(done.code)
        raise


if __name__ == "__main__":
    main()
