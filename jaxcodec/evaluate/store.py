"""Rows on disk: appended one by one, found again by what they were made from.

A folder holds `rows.jsonl` with one line per codec, clip and setting, `about.json` with
what the rows belong to, `examples/` with audio to listen to, and `codes/` of our own
models. A row has

    key         of codec, version, setting and the clip's samples
    system, version, setting, bitrate (nominal)
    digest      of the clip
    seconds, bytes, payload_bytes (without headers; null if unknown)
    delay       samples by which the decoded clip came late, before it was aligned
    length_error    samples that the decoded clip had too many
    encode_seconds, decode_seconds
    scores      name of a metric -> value
    failures    name of a metric -> why it has no value; `codec` if nothing was decoded
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["Store", "row_key", "write_beside"]

FORMAT = 1  # changes with the meaning of a row


def row_key(system: str, version: str, setting: str, digest: str) -> str:
    """What identifies a row, whatever its clip is called."""
    parts = json.dumps([FORMAT, system, version, setting, digest])
    return hashlib.sha256(parts.encode()).hexdigest()[:20]


class Store:
    """The folder of an evaluation."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if self.folder.is_file():
            raise FileExistsError(
                f"{folder} is a file, but rows go to a folder: name another one."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / "rows.jsonl"
        self.rows = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        """Rows by key; later ones replace earlier ones."""
        if not self._path.exists():
            return {}
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # a run was killed while it wrote
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        rows = [json.loads(line) for line in whole.splitlines()]
        return {row["key"]: row for row in rows}

    def add(self, row: dict[str, Any]) -> None:
        """Keeps a row, at once."""
        self.rows[row["key"]] = row
        line = json.dumps(row, allow_nan=False) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)

    def about(self) -> dict[str, Any]:
        """What the rows belong to; empty before the first run."""
        path = self.folder / "about.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def set_about(self, about: dict[str, Any]) -> None:
        """Replaces what the rows belong to."""
        write_beside(self.folder / "about.json", json.dumps(about, indent=1) + "\n")

    def codes(self, system: str, version: str, digest: str) -> Path:
        """Where the codes of a clip lie: `s g t` of all streams."""
        return self.folder / "codes" / _safe(f"{system}-{version}") / f"{digest}.npy"

    def example(self, digest: str, system: str, setting: str) -> Path:
        """Where the audio of an example lies; the original has no setting."""
        name = _safe(f"{system}@{setting}" if setting else system)
        return self.folder / "examples" / digest / f"{name}.flac"


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "@.-_" else "_" for c in name)


def write_beside(path: Path, content: str | bytes) -> None:
    """Writes a file beside its place, then renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    if isinstance(content, str):
        content = content.encode()
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
