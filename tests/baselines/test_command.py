import sys
from pathlib import Path

import numpy as np
import pytest

from jaxcodec.baselines.command import CommandCodec, parse_codec
from jaxcodec.baselines.system import Setting
from tests.toys import voice

COPY = (
    f"{sys.executable} -c 'import shutil, sys; shutil.copy(*sys.argv[1:3])' "
    "{in} {out}"
)


def outcomes(codec, *clips):
    return [trial.outcome for trial in codec.run(clips, codec.settings)]


def test_commands_code_and_decode():
    codec = parse_codec(f"copy={COPY} ; {COPY}")
    (found,) = outcomes(codec, voice())
    np.testing.assert_array_equal(found.waveform, voice())
    assert found.num_bytes == 44 + 2 * len(voice())
    assert found.payload_bytes is None
    assert found.encode_seconds > 0


def test_the_rate_reaches_the_program():
    cut = (
        f'{sys.executable} -c \'import sys; open(sys.argv[2], "wb").write('
        'open(sys.argv[1], "rb").read() + bytes(int(sys.argv[3])))\' {in} {out} {rate}'
    )
    codec = parse_codec(f"pad@6k,4500={cut} ; {COPY}")
    assert [setting.label for setting in codec.settings] == ["6k", "4.5k"]
    assert [setting.bitrate for setting in codec.settings] == [6000, 4500]
    long, short = outcomes(codec, voice())
    assert long.num_bytes - short.num_bytes == 1500
    assert codec.version != parse_codec(f"pad@6k={COPY} ; {COPY}").version


def test_a_program_that_fails_says_why():
    fail = f"{sys.executable} -c 'raise SystemExit(\"no such bitrate\")' {{in}} {{out}}"
    idle = f"{sys.executable} -c 'pass' {{in}} {{out}}"
    (found,) = outcomes(parse_codec(f"bad={fail} ; {COPY}"), voice())
    assert str(found).endswith("ended with status 1: no such bitrate")
    (found,) = outcomes(parse_codec(f"bad={COPY} ; {idle}"), voice())
    assert str(found).endswith("ended with no output file: it said nothing")


def test_raw_audio_of_another_rate():
    words = ("{in}", "{out}")
    copy = (sys.executable, "-c", "import shutil,sys; shutil.copy(*sys.argv[1:])")
    codec = CommandCodec(
        name="raw",
        kind="baseline",
        version="1",
        settings=(Setting("only"),),
        encode=copy + words,
        decode=copy + words,
        raw_rate=8_000,
        payload=len,
    )
    time = np.arange(16_000) / 16_000
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    (found,) = outcomes(codec, tone)
    assert found.num_bytes == found.payload_bytes == 16_000
    np.testing.assert_allclose(found.waveform[400:-400], tone[400:-400], atol=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "no name or not two commands: write NAME=ENCODE"),
        (f"={COPY} ; {COPY}", "no name or not two commands"),
        (f"x={COPY}", "not two commands"),
        (f"x={COPY} ; {sys.executable} {{in}}", r"decoder of codec 'x' .* where {out}"),
        (
            f"x=no-such-program {{in}} {{out}} ; {COPY}",
            "'no-such-program', which is no",
        ),
        (f"x@fast={COPY} ; {COPY}", "bitrate 'fast' of codec 'x' is no number above 0"),
    ],
)
def test_wrong_codecs(text, message):
    with pytest.raises(ValueError, match=message):
        parse_codec(text)


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outcomes(parse_codec(f"copy={COPY} ; {COPY}"), voice())
    assert list(Path(tmp_path).iterdir()) == []
