"""Which files are audio."""

from pathlib import Path

__all__ = ["SUFFIXES", "find_audio"]

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


def find_audio(folder: str | Path) -> list[Path]:
    """All audio files below a folder, sorted by path.

    Raises:
        FileNotFoundError: the folder does not exist or holds no audio.
    """
    folder = Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(
            f"no audio below {folder}: expected {', '.join(SUFFIXES)} files; "
            "check the path."
        )
    return files
