"""A codec that is an encoder and a decoder on the command line."""

import dataclasses
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxcodec.baselines.system import RATE, Outcome, Setting, Trial

__all__ = ["CommandCodec", "parse_codec"]

TIMEOUT = 300  # seconds that a program may take for one clip
FIELDS = "{in}, {out}, {rate} (bit/s), {kbps}"


@dataclasses.dataclass(frozen=True)
class CommandCodec:
    """Runs programs on files in a folder of their own, without a shell."""

    name: str
    kind: str
    version: str
    settings: tuple[Setting, ...]
    encode: tuple[str, ...]  # words with {in}, {out} and the setting's values
    decode: tuple[str, ...]
    about: dict[str, str] = dataclasses.field(default_factory=dict)
    suffix: str = ".bin"  # of the coded file
    raw_rate: int | None = None  # Hz of headerless 16-bit audio; None: WAV at `RATE`
    payload: Callable[[bytes], float] | None = None  # bytes without headers

    def run(
        self, clips: Sequence[np.ndarray], settings: Sequence[Setting]
    ) -> Iterator[Trial]:
        """Every clip at every setting; a program that fails fails that one only."""
        for index, clip in enumerate(clips):
            for setting in settings:
                try:
                    yield Trial(index, setting, self._code(clip, setting))
                except (OSError, ValueError, RuntimeError) as error:
                    yield Trial(index, setting, error)

    def _code(self, clip: np.ndarray, setting: Setting) -> Outcome:
        kind = ".raw" if self.raw_rate else ".wav"
        with tempfile.TemporaryDirectory(prefix="jaxcodec-") as folder:
            source = Path(folder, f"in{kind}")
            coded = Path(folder, f"coded{self.suffix}")
            target = Path(folder, f"out{kind}")
            self._write(source, clip)
            encode_seconds = _call(self.encode, source, coded, setting)
            decode_seconds = _call(self.decode, coded, target, setting)
            data = coded.read_bytes()
            return Outcome(
                waveform=self._read(target),
                num_bytes=len(data),
                payload_bytes=self.payload(data) if self.payload else None,
                encode_seconds=encode_seconds,
                decode_seconds=decode_seconds,
            )

    def _write(self, path: Path, clip: np.ndarray) -> None:
        import soundfile
        import soxr

        if self.raw_rate is None:
            soundfile.write(path, clip, RATE, "PCM_16")
            return
        samples = soxr.resample(clip, RATE, self.raw_rate, quality="HQ")
        pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2")
        path.write_bytes(pcm.tobytes())

    def _read(self, path: Path) -> np.ndarray:
        import soundfile
        import soxr

        if self.raw_rate is None:
            audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
            audio = audio.mean(axis=1)
        else:
            pcm = np.frombuffer(path.read_bytes(), "<i2")
            audio, rate = pcm.astype(np.float32) / 32768, self.raw_rate
        if rate != RATE:
            audio = soxr.resample(audio, rate, RATE, quality="HQ")
        return np.asarray(audio, np.float32)


def parse_codec(text: str) -> CommandCodec:
    """A codec from `NAME[@RATE,RATE...]=ENCODE ... ; DECODE ...`.

    Both commands name {in} and {out}: WAV (16 kHz mono) to any file, and that file to
    WAV. {rate} and {kbps} stand for the bitrate where some are given.

    Raises:
        ValueError: the text has another form, or a program does not exist.
    """
    head, equals, commands = text.partition("=")
    name, _, rates = head.partition("@")
    words = shlex.split(commands)
    if not (equals and name.strip()) or words.count(";") != 1:
        raise ValueError(
            f"the codec {text!r} has no name or not two commands: write "
            "NAME=ENCODE {in} {out} ; DECODE {in} {out}, with spaces around ';'."
        )
    cut = words.index(";")
    encode, decode = words[:cut], words[cut + 1 :]
    for which, command in (("encoder", encode), ("decoder", decode)):
        for field in ("{in}", "{out}"):
            if not any(field in word for word in command):
                raise ValueError(
                    f"the {which} of codec {name!r} does not say where {field} goes: "
                    f"known fields are {FIELDS}."
                )
        if shutil.which(command[0]) is None:
            raise ValueError(
                f"the {which} of codec {name!r} is {command[0]!r}, which is no program "
                "here: check the spelling, or give its whole path."
            )
    return CommandCodec(
        name=name.strip(),
        kind="external",
        version=commands.strip(),
        settings=_settings(name, rates),
        encode=tuple(encode),
        decode=tuple(decode),
        about={"command": commands.strip()},
    )


def _settings(name: str, rates: str) -> tuple[Setting, ...]:
    if not rates:
        return (Setting("default"),)
    made = []
    for word in rates.split(","):
        number = word.strip().lower()
        scale = 1000 if number.endswith("k") else 1
        try:
            rate = float(number.removesuffix("k")) * scale
        except ValueError:
            rate = 0.0
        if rate <= 0:
            raise ValueError(
                f"the bitrate {word!r} of codec {name!r} is no number above 0: write "
                "bits per second, such as 6000 or 6k."
            )
        values = (("rate", f"{rate:g}"), ("kbps", f"{rate / 1000:g}"))
        made.append(Setting(f"{rate / 1000:g}k", rate, values))
    return tuple(made)


def _call(
    words: tuple[str, ...], source: Path, target: Path, setting: Setting
) -> float:
    """Runs a command; returns the seconds it took."""
    values = {"in": str(source), "out": str(target), **dict(setting.values)}
    command = []
    for word in words:
        for field, value in values.items():
            word = word.replace(f"{{{field}}}", value)
        command.append(word)
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT,
            cwd=source.parent,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{command[0]} took more than {TIMEOUT} s.") from error
    seconds = time.perf_counter() - begun
    if done.returncode or not target.is_file():
        said = done.stderr.decode(errors="replace").strip().splitlines()
        status = f"status {done.returncode}" if done.returncode else "no output file"
        raise RuntimeError(
            f"{Path(command[0]).name} ended with {status}: "
            f"{said[-1].strip() if said else 'it said nothing'}"
        )
    return seconds
