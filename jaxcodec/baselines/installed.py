"""Which of the well-known codecs are installed, and how each is called."""

import dataclasses
import functools
import shutil
import subprocess
from collections.abc import Callable

from jaxcodec.baselines.amr_wb import MODES, find_amr_wb
from jaxcodec.baselines.command import CommandCodec
from jaxcodec.baselines.payload import amr_wb_payload, ogg_payload
from jaxcodec.baselines.system import Setting, System

__all__ = ["BASELINES", "find_baseline", "how_to_install"]

FFMPEG = "ffmpeg -v error -nostdin -y"
TO_WAV = f"{FFMPEG} -i {{in}} -ar 16000 -ac 1 -c:a pcm_s16le {{out}}"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One way to run a codec."""

    programs: tuple[str, ...]  # that must exist; the first tells the version
    encode: str
    decode: str
    suffix: str
    payload: Callable[[bytes], float] | None = None
    ffmpeg_encoder: str | None = None  # that ffmpeg must have been built with
    raw_rate: int | None = None
    version: str = "--version"  # argument that shows it; empty: there is none


def _rates(*kbps: float) -> tuple[Setting, ...]:
    """Settings of codecs that take a bitrate."""
    return tuple(
        Setting(
            f"{rate:g}k",
            1000 * rate,
            (("kbps", f"{rate:g}"), ("rate", f"{1000 * rate:g}")),
        )
        for rate in kbps
    )


def _qualities(**rates: float) -> tuple[Setting, ...]:
    """Settings of codecs that take a quality, with the bitrates that it stands for."""
    return tuple(
        Setting(f"{rate / 1000:g}k", rate, (("quality", name.removeprefix("q")),))
        for name, rate in rates.items()
    )


# bitrates of the published comparisons: 6 to 24 kbit/s, and MP3 at 112
SETTINGS: dict[str, tuple[Setting, ...]] = {
    "opus": _rates(6, 9, 12, 16, 20, 24),
    "amrwb": tuple(
        Setting(f"{rate / 1000:g}k", rate, (("mode", str(mode)), ("rate", str(rate))))
        for mode, rate in enumerate(MODES)
    ),
    "mp3": _rates(16, 32, 112),
    "speex": _qualities(q1=5750, q3=9800, q5=16800, q7=23800),
    "codec2": tuple(
        Setting(f"{rate / 1000:g}k", rate, (("mode", name),))
        for name, rate in (
            ("700C", 700),
            ("1300", 1300),
            ("2400", 2400),
            ("3200", 3200),
        )
    ),
}

RECIPES: dict[str, tuple[Recipe, ...]] = {
    "opus": (
        Recipe(
            ("opusenc", "opusdec"),
            "opusenc --quiet --serial 0 --padding 0 --bitrate {kbps} {in} {out}",
            "opusdec --quiet --rate 16000 {in} {out}",
            ".opus",
            ogg_payload,
        ),
        Recipe(
            ("ffmpeg",),
            f"{FFMPEG} -i {{in}} -c:a libopus -b:a {{rate}} -application voip {{out}}",
            TO_WAV,
            ".opus",
            ogg_payload,
            "libopus",
        ),
    ),
    "amrwb": (
        Recipe(
            ("ffmpeg",),
            f"{FFMPEG} -i {{in}} -c:a libvo_amrwbenc -b:a {{rate}} {{out}}",
            TO_WAV,
            ".awb",
            amr_wb_payload,
            "libvo_amrwbenc",
        ),
    ),
    "mp3": (
        Recipe(
            ("ffmpeg",),
            f"{FFMPEG} -i {{in}} -c:a libmp3lame -b:a {{rate}} -write_xing 0 "
            "-id3v2_version 0 {out}",
            TO_WAV,
            ".mp3",
            len,
            "libmp3lame",
        ),
        Recipe(
            ("lame",),
            "lame --quiet -t -b {kbps} {in} {out}",
            "lame --quiet --decode {in} {out}",
            ".mp3",
            len,
        ),
    ),
    "speex": (
        Recipe(
            ("speexenc", "speexdec"),
            "speexenc --wideband --quality {quality} {in} {out}",
            "speexdec {in} {out}",
            ".spx",
            ogg_payload,
        ),
        Recipe(
            ("ffmpeg",),
            f"{FFMPEG} -i {{in}} -c:a libspeex -cbr_quality {{quality}} {{out}}",
            TO_WAV,
            ".spx",
            ogg_payload,
            "libspeex",
        ),
    ),
    "codec2": (
        Recipe(
            ("c2enc", "c2dec"),
            "c2enc {mode} {in} {out}",
            "c2dec {mode} {in} {out}",
            ".bits",
            len,
            raw_rate=8_000,
            version="",
        ),
        Recipe(
            ("ffmpeg",),
            f"{FFMPEG} -i {{in}} -ar 8000 -c:a libcodec2 -mode {{mode}} {{out}}",
            TO_WAV,
            ".c2",
            lambda data: len(data) - 7,
            "libcodec2",
        ),
    ),
}
BASELINES = tuple(RECIPES)

PACKAGES = {
    "opus": "opus-tools (or ffmpeg)",
    "amrwb": "libvo-amrwbenc0 and libopencore-amrwb0",
    "mp3": "ffmpeg (or lame)",
    "speex": "speex (or ffmpeg)",
    "codec2": "codec2 (or ffmpeg)",
}


def how_to_install(name: str) -> str:
    """Which packages bring a codec."""
    return (
        f"{name} is not installed: get {PACKAGES[name]} from your system, for example "
        "with apt-get install or brew install."
    )


def find_baseline(name: str) -> System | None:
    """A well-known codec if its programs are installed.

    Raises:
        ValueError: the name is none of `BASELINES`.
    """
    if name not in RECIPES:
        raise ValueError(
            f"there is no baseline {name!r}: choose among {', '.join(BASELINES)}; "
            "others can be given as commands, with --codec."
        )
    if name == "amrwb" and (library := find_amr_wb(SETTINGS[name])):
        return library
    for recipe in RECIPES[name]:
        if all(shutil.which(program) for program in recipe.programs) and (
            recipe.ffmpeg_encoder is None or recipe.ffmpeg_encoder in _ffmpeg_encoders()
        ):
            return _codec(name, recipe)
    return None


def _codec(name: str, recipe: Recipe) -> CommandCodec:
    version = _version(recipe)
    return CommandCodec(
        name=name,
        kind="baseline",
        version=f"{version}; {recipe.encode}",
        settings=SETTINGS[name],
        encode=tuple(recipe.encode.split()),
        decode=tuple(recipe.decode.split()),
        about={"programs": version, "command": recipe.encode},
        suffix=recipe.suffix,
        raw_rate=recipe.raw_rate,
        payload=recipe.payload,
    )


def _version(recipe: Recipe) -> str:
    program = recipe.programs[0]
    if not recipe.version:
        return f"{program} (does not tell its version)"
    argument = "-version" if program == "ffmpeg" else recipe.version
    said = _output(program, argument).strip().splitlines()
    first = said[0].split("Copyright")[0].strip() if said else program
    return f"{first}, {recipe.ffmpeg_encoder}" if recipe.ffmpeg_encoder else first


@functools.cache
def _ffmpeg_encoders() -> frozenset[str]:
    lines = _output("ffmpeg", "-hide_banner", "-encoders").splitlines()
    return frozenset(line.split()[1] for line in lines if len(line.split()) > 1)


def _output(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, timeout=30
    )
    return (done.stdout or done.stderr).decode(errors="replace")
