import functools
import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import jaxcodec
from jaxcodec import bitstream, cli, pretrained

RATE = 16_000
BITS = (128_000.0, 256_000.0)  # what the toy offers


class Toy:
    """A lossless codec: the two bytes of 16-bit samples are two streams of codes."""

    name, fingerprint, tables = "toy", bytes(range(8)), None

    def __init__(self):
        self.config = SimpleNamespace(bitrates=BITS, bitrate=self._bitrate)
        self.config.num_streams = self._num_streams

    @staticmethod
    def _bitrate(num_streams):
        if not 1 <= num_streams <= 2:
            raise ValueError(f"num_streams is {num_streams}: this codec has 1 to 2.")
        return BITS[num_streams - 1]

    @staticmethod
    def _num_streams(bitrate):
        if not BITS[0] <= bitrate <= BITS[1]:
            raise ValueError(
                f"bitrate {bitrate:g} bit/s is not offered: 128000, 256000."
            )
        return sum(bitrate >= rate for rate in BITS)

    def header(self, original_rate, channels, num_samples, num_streams):
        return bitstream.Header(
            codec=self.name,
            fingerprint=self.fingerprint,
            sample_rate=original_rate,
            original_rate=original_rate,
            channels=channels,
            num_samples=num_samples,
            stride=8,
            num_streams=num_streams,
            num_groups=8,
            codebook_size=256,
        )

    def check_header(self, header):
        if header.fingerprint != self.fingerprint:
            raise bitstream.ContainerError(
                f"the file has {header.fingerprint.hex()}, but this is "
                f"{self.fingerprint.hex()}."
            )

    def encode_blocks(self, blocks, sample_rate, num_streams):
        rest = None
        for block in blocks:
            if not np.isfinite(block).all():
                raise ValueError("samples are NaN or infinite: repair the audio.")
            samples = np.rint(block * 32768).clip(-32768, 32767).astype(np.int32)
            rest = samples if rest is None else np.concatenate([rest, samples])
            while len(rest) >= 1024:  # 128 code frames: half of a file's chunks
                yield self._codes(rest[:1024], num_streams)
                rest = rest[1024:]
        if len(rest):
            yield self._codes(np.pad(rest, ((0, -len(rest) % 8), (0, 0))), num_streams)

    @staticmethod
    def _codes(samples, num_streams):
        unsigned = (samples + 32768).T.reshape(samples.shape[1], -1, 8)
        codes = np.stack([unsigned >> 8, unsigned & 255], axis=1)[:, :num_streams]
        return codes.transpose(0, 1, 3, 2).astype(np.int32)

    def decode_chunks(self, chunks, header, num_samples):
        held = np.zeros((0, header.channels), np.float32)
        for chunk in chunks:
            codes = chunk.codes.astype(np.int32)
            if chunk.num_streams == 0:
                codes[:, 0] = 128
            samples = codes[:, 0] * 256 - 32768
            if chunk.num_streams == 2:
                samples += codes[:, 1]
            samples = samples.transpose(2, 1, 0).reshape(-1, header.channels)
            yield held
            held = samples.astype(np.float32) / 32768
        before = header.samples_of(chunk.first_frame)
        yield held[: num_samples() - before]


def load_toy(name=None, **_):
    if name not in (None, "toy"):
        raise ValueError(f"there is no model {name!r}: give the name of one (toy).")
    return Toy()


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(jaxcodec, "load", load_toy, raising=False)


@pytest.fixture
def run(toy, capfdbinary, monkeypatch, tmp_path):
    """Runs the command line in an empty folder: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, stdin=b""):
        pipe = SimpleNamespace(buffer=io.BytesIO(stdin), isatty=lambda: False)
        monkeypatch.setattr(sys, "stdin", pipe)
        with pytest.raises(SystemExit) as stop:
            cli.main(list(map(str, arguments)))
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return SimpleNamespace(status=stop.value.code, out=out, err=err.decode())

    return run


def waveform(num_samples=5000, channels=1, seed=0):
    numbers = np.random.default_rng(seed).normal(0, 0.2, (num_samples, channels))
    return (np.rint(numbers.clip(-1, 0.99) * 32768) / 32768).astype(np.float32)


def write(path, *shape, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    audio = waveform(*shape)
    soundfile.write(path, audio, RATE, **options)
    return audio


def parts():
    return [p for p in Path().rglob("*") if p.name.endswith(".part")]


def damage(path, position=0.6):
    data = bytearray(Path(path).read_bytes())
    data[int(len(data) * position)] ^= 0xFF
    Path(path).write_bytes(data)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("channels", [1, 2])
def test_file_round_trip(run, suffix, channels):
    audio = write("in.wav", 70_001, channels)
    assert run("encode", "in.wav", "-o", "deep/er/in.jxc").status == 0
    done = run("decode", "deep/er/in.jxc", "-o", f"out.{suffix}")
    assert done.status == 0
    decoded, rate = soundfile.read(f"out.{suffix}", dtype="float32", always_2d=True)
    assert rate == RATE
    assert soundfile.info(f"out.{suffix}").subtype == "PCM_16"
    np.testing.assert_array_equal(decoded, audio)
    assert "1 done, 0 skipped, 0 failed; 4.4 s" in done.err
    assert not done.out and not parts()


def test_float_output(run):
    audio = write("in.wav")
    run("encode", "in.wav", "-o", "in.jxc")
    assert run("decode", "in.jxc", "-o", "x.wav", "--subtype", "float").status == 0
    assert soundfile.info("x.wav").subtype == "FLOAT"
    np.testing.assert_array_equal(soundfile.read("x.wav", always_2d=True)[0], audio)


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.flac", {}),
        ("a.ogg", {}),
        ("a.mp3", {}),
        ("a.wav", {"subtype": "PCM_24"}),
        ("a.wav", {"subtype": "ULAW"}),
    ],
)
def test_formats_in(run, name, options):
    write(name, 9_999, **options)
    expected = soundfile.info(name).frames
    assert run("encode", name, "-o", "a.jxc").status == 0
    header = bitstream.scan(io.BytesIO(Path("a.jxc").read_bytes())).header
    assert header.num_samples == expected


def test_folders_keep_their_tree_and_resume(run):
    for name in ("x/a.wav", "x/deep/b.flac", "x/deep/c.OGG"):
        write(name, **({"format": "OGG"} if name.endswith("OGG") else {}))
    for name in ("x/notes.txt", "x/.hidden.wav"):
        Path(name).write_text("no audio")
    done = run("encode", "x", "-o", "y", "--json")
    assert done.status == 0
    assert "3 done, 0 skipped, 0 failed; 2 other files ignored" in done.err
    records = list(map(json.loads, done.out.splitlines()))
    assert [r["output"] for r in records] == ["y/a.jxc", "y/deep/b.jxc", "y/deep/c.jxc"]
    size = Path("y/a.jxc").stat().st_size
    assert records[0] == {
        "input": "x/a.wav",
        "output": "y/a.jxc",
        "status": "done",
        "seconds": 5000 / RATE,
        "bytes": size,
        "kbit_per_s": 8 * size / (5000 / RATE) / 1000,
        "streams": 2,
        "model": "toy",
        "fingerprint": "0001020304050607",
        "warnings": [],
    }
    Path("y/deep/b.jxc").unlink()
    Path("y/a.jxc").write_text("mine")
    again = run("encode", "x", "-o", "y", "--json")
    assert "1 done, 2 skipped, 0 failed; what exists is skipped" in again.err
    states = [json.loads(line)["status"] for line in again.out.splitlines()]
    assert states == ["skipped", "done", "skipped"]
    assert Path("y/a.jxc").read_text() == "mine"
    assert run("encode", "x", "-o", "y", "--overwrite").status == 0
    assert Path("y/a.jxc").stat().st_size == size
    assert run("decode", "y", "-o", "z", "--format", "flac").status == 0
    assert sorted(p.name for p in Path("z").rglob("*.flac")) == [
        "a.flac",
        "b.flac",
        "c.flac",
    ]


def test_skipping_everything_needs_no_model(run, monkeypatch):
    write("a.wav")
    Path("a.jxc").write_text("mine")
    monkeypatch.setattr(jaxcodec, "load", None)
    assert run("encode", "a.wav", "-o", "a.jxc").status == 0


def test_failed_file_does_not_stop_the_others(run):
    write("x/b.wav")
    Path("x/a.wav").write_bytes(b"RIFF nonsense")
    done = run("encode", "x", "missing.wav", "-o", "y", "--json")
    assert done.status == 1
    assert "error: x/a.wav: it cannot be read as audio" in done.err
    assert "error: missing.wav: there is no such file: check the path." in done.err
    assert "1 done, 0 skipped, 2 failed" in done.err
    states = [json.loads(line)["status"] for line in done.out.splitlines()]
    assert states == ["failed", "done", "failed"]
    assert [p.name for p in Path("y").iterdir()] == ["b.jxc"]


@pytest.mark.parametrize("known", [True, False])
def test_pipes_round_trip(run, known):
    audio = write("in.wav", 70_001)
    data = Path("in.wav").read_bytes()
    if not known:
        data = data[:4] + b"\xff" * 4 + data[8:40] + b"\xff" * 4 + data[44:]
    coded = run("encode", "-", "-o", "-", stdin=data)
    assert (coded.status, coded.err) == (0, "")
    info = bitstream.scan(io.BytesIO(coded.out))
    assert info.header.num_samples == 70_001 and not info.damage
    decoded = run("decode", "-", "-o", "-", stdin=coded.out)
    assert (decoded.status, decoded.err) == (0, "")
    sizes = decoded.out[4:8], decoded.out[40:44]
    assert (sizes == (b"\xff" * 4,) * 2) is not known
    if known:
        assert decoded.out == data
    else:
        samples = np.frombuffer(decoded.out[44:], "<i2") / 32768
        np.testing.assert_array_equal(samples, audio[:, 0])
    assert run("decode", "-", "-o", "x.wav", stdin=coded.out).status == 0
    assert Path("x.wav").read_bytes().endswith(data[44:])
    assert soundfile.info("x.wav").frames == 70_001


def test_what_comes_through_a_pipe_is_computed_in_the_chunks_that_are_written(
    run, monkeypatch
):
    """Else a live one would wait for a second chunk, seconds longer."""
    asked = []
    monkeypatch.setattr(
        jaxcodec, "load", lambda *name, **options: asked.append(options) or Toy()
    )
    write("in.wav", 2000)
    assert run("encode", "in.wav", "-o", "a.jxc").status == 0
    done = run("encode", "-", "-o", "b.jxc", stdin=Path("in.wav").read_bytes())
    assert done.status == 0
    header = bitstream.scan(io.BytesIO(Path("b.jxc").read_bytes())).header
    assert asked == [{}, {"chunk_codes": header.chunk_frames}]


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3"])
def test_other_formats_through_a_pipe(run, name):
    write(name, 20_000)
    coded = run("encode", "-", "-o", "-", stdin=Path(name).read_bytes())
    assert coded.status == 0
    assert bitstream.scan(io.BytesIO(coded.out)).header.num_samples == 20_000


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["encode", "a.wav", "-o", "a.jxc", "--bitrate", "1k"],
            "1000 bit/s is not off",
        ),
        (["encode", "a.wav", "-o", "a.jxc", "--bitrate", "6x"], "the bitrate is '6x'"),
        (["encode", "a.wav", "-o", "a.jxc", "--streams", "3"], "num_streams is 3"),
        (["encode", "a.wav", "-o", "a.jxc", "--streams", "0"], "--streams"),
        (
            ["encode", "a.wav", "-o", "a.jxc", "--streams=1", "--bitrate=9k"],
            "--bitrate 9k and --streams 1 exclude each other",
        ),
        (["encode", "a.wav", "-o", "a.jxc", "--model", "no"], "there is no model 'no'"),
        (["encode", "a.wav", "-o", "a.jxc", "--coder", "zip"], "zip"),
        (["encode", "a.wav", "-o", "b.wav"], "OUT is 'b.wav', but encode writes .jxc"),
        (["encode", "a.wav", "-o", "a.wav"], "OUT is 'a.wav', but encode writes .jxc"),
        (["encode", "a.wav"], "Missing option"),
        (["encode", "a.wav", "b.wav", "-o", "c.jxc"], "OUT is the file 'c.jxc'"),
        (["encode", "x", "-o", "a.wav"], "OUT is 'a.wav'"),
        (["encode", "x", "-o", "notes"], "OUT is the file 'notes'"),
        (["encode", "a.wav", "b.wav", "-o", "-"], "several files cannot go to '-'"),
        (["encode", "-", "a.wav", "-o", "y"], "'-' .standard input. is among 2 inputs"),
        (["encode", "-", "-o", "x"], "it has no name of its own"),
        (["encode", "-", "-o", "-", "--json"], "--json takes it too"),
        (["encode", "x", "-o", "y"], "x/a.flac and x/a.wav would both become y/a.jxc"),
        (
            ["decode", "a.jxc", "-o", "a.mp3"],
            "OUT is 'a.mp3', but decode writes WAV or",
        ),
        (["decode", "a.jxc", "-o", "a.wav", "--format=flac"], "--format is flac"),
        (["decode", "a.jxc", "-o", "-", "--format=flac"], "FLAC takes neither"),
        (["decode", "a.jxc", "-o", "a.flac", "--subtype=float"], "FLAC takes neither"),
        (["decode", "a.jxc", "-o", "c.wav", "--model", "no"], "there is no model 'no'"),
        (["peel", "a.jxc", "-o", "b.jxc"], "peel needs --bitrate or --streams"),
        (
            ["peel", "a.jxc", "-o", "a.jxc", "--streams=1"],
            "a.jxc is an input, but would",
        ),
        (["peel", "z", "-o", "z", "--streams=1"], "z/a.jxc is an input, but would"),
        (["nonsense"], "nonsense"),
        (["info"], "Missing argument"),
    ],
)
def test_wrong_usage(run, arguments, message):
    for name in ("a.wav", "b.wav", "x/a.wav", "x/a.flac"):
        write(name)
    Path("notes").write_text("")
    Path("z").mkdir()
    run("encode", "a.wav", "-o", "a.jxc")
    shutil.copy("a.jxc", "z/a.jxc")
    before = {p: p.stat().st_mtime_ns for p in Path().rglob("*")}
    done = (
        run(*arguments, "--overwrite") if arguments[0] == "encode" else run(*arguments)
    )
    assert done.status == 2
    assert re.search(message, done.err)
    assert done.err.count("\n") <= 2 and not done.out
    assert {p: p.stat().st_mtime_ns for p in Path().rglob("*")} == before


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Path("a.wav").touch(), "it is empty .0 bytes."),
        (lambda: write("a.wav", 0), "it has no samples"),
        (lambda: Path("a.wav").write_bytes(b"words " * 99), "cannot be read as audio"),
        (lambda: cut(write("a.wav") is not None and "a.wav"), "it is cut short"),
        (lambda: cut(flac("a.wav")), "it cannot be decoded .*lost sync.*cut short"),
        (lambda: nan("a.wav"), "samples are NaN or infinite"),
    ],
)
def test_bad_audio(run, make, message):
    make()
    done = run("encode", "a.wav", "-o", "y.jxc")
    assert done.status == 1
    assert re.search(f"error: .*{message}", done.err)
    assert done.err.count("\n") <= 2
    assert not Path("y.jxc").exists() and not parts()


def test_folder_without_audio(run):
    Path("x").mkdir()
    Path("x/notes").touch()
    done = run("encode", "x", "-o", "y")
    assert done.status == 1
    assert (
        "error: x holds no .wav or .flac or .ogg or .mp3 files, but 1 oth" in done.err
    )
    assert not Path("y").exists()


def cut(name):
    data = Path(name).read_bytes()
    Path(name).write_bytes(data[: len(data) // 2])


def flac(name):
    write(name, 50_000, format="FLAC")
    return name


def nan(name):
    audio = waveform()
    audio[100] = np.nan
    soundfile.write(name, audio, RATE, subtype="FLOAT")


def test_cut_mp3_gives_a_warning(run):
    write("a.mp3", 90_000)
    cut("a.mp3")
    done = run("encode", "a.mp3", "-o", "a.jxc")
    assert done.status == 0
    assert "warning: a.mp3: about 90000 samples were expected" in done.err


@pytest.mark.parametrize(
    "source, target, message",
    [
        ("a.wav", "notes/a.jxc", "Not a directory|File exists"),
        ("a.wav", "closed/a.jxc", "Permission denied"),
        ("missing", "a.jxc", "missing: there is no such file"),
    ],
)
def test_bad_paths(run, source, target, message):
    write("a.wav")
    Path("closed").mkdir(0o500)
    if target.startswith("closed") and os.access("closed", os.W_OK):
        pytest.skip("root may write everywhere")
    Path("notes").touch()
    done = run("encode", source, "-o", target)
    assert done.status == 1
    assert re.search(f"error: .*({message})", done.err)
    assert done.err.count("\n") <= 2


def test_pipes_with_names_are_written_directly(run):
    """Never on /dev/null: a bug here, run as root, would replace it."""
    write("a.wav")
    os.mkfifo("fifo")
    reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run("encode", "a.wav", "-o", "fifo").status == 0
        coded = os.read(reader, 1 << 16)
    finally:
        os.close(reader)
    assert Path("fifo").is_fifo()
    assert bitstream.scan(io.BytesIO(coded)).header.num_samples == 5000


def test_damage_is_a_warning_unless_strict(run):
    audio = write("a.wav", 100_000)
    run("encode", "a.wav", "-o", "a.jxc")
    for position in (0.3, 0.35, 0.5, 0.6, 0.8):
        damage("a.jxc", position)
    done = run("decode", "a.jxc", "-o", "a.out.wav", "--json")
    assert done.status == 0
    assert done.err.count("warning: a.jxc: chunk") == 3
    assert "and 2 more such messages" in done.err
    assert len(json.loads(done.out)["warnings"]) == 5
    decoded = soundfile.read("a.out.wav", always_2d=True)[0]
    assert decoded.shape == audio.shape
    np.testing.assert_array_equal(decoded[:20_000], audio[:20_000])
    strict = run("decode", "a.jxc", "-o", "b.wav", "--strict")
    assert strict.status == 1
    assert "but strict reading takes only undamaged files" in strict.err
    assert not Path("b.wav").exists() and not parts()


def test_nothing_left_to_decode_fails(run):
    write("a.wav", 2000)
    run("encode", "a.wav", "-o", "a.jxc")
    damage("a.jxc", 0.3)
    done = run("decode", "a.jxc", "-o", "a.out.wav")
    assert done.status == 1
    assert "nothing is left (chunk 0, stream 0 of 2" in done.err
    assert not Path("a.out.wav").exists()


def test_cut_container_decodes_to_what_is_there(run):
    audio = write("a.wav", 100_000)
    run("encode", "a.wav", "-o", "a.jxc")
    cut("a.jxc")
    done = run("decode", "a.jxc", "-o", "b.wav")
    assert done.status == 0
    assert "the file is cut short after" in done.err
    decoded = soundfile.read("b.wav", always_2d=True)[0]
    assert 40_000 < len(decoded) < 60_000  # and the header of the WAV says so
    np.testing.assert_array_equal(decoded[:40_000], audio[:40_000])


def test_other_weights_are_named(run, monkeypatch):
    write("a.wav")
    run("encode", "a.wav", "-o", "a.jxc")
    monkeypatch.setattr(Toy, "fingerprint", b"otherone")
    done = run("decode", "a.jxc", "-o", "b.wav")
    assert done.status == 1
    assert "0001020304050607" in done.err and b"otherone".hex() in done.err
    monkeypatch.setattr(Toy, "name", "other")
    run("encode", "a.wav", "-o", "a.jxc", "--overwrite")
    done = run("decode", "a.jxc", "-o", "b.wav")
    assert done.status == 1
    assert "a.jxc: there is no model 'other'" in done.err
    assert run("decode", "a.jxc", "-o", "b.wav", "--model", "toy").status == 0


def test_decode_refuses_what_is_no_container(run):
    write("a.wav")
    done = run("decode", "a.wav", "-o", "b.wav")
    assert done.status == 1
    assert "a jaxcodec file starts with" in done.err


def test_bitrate_chooses_streams(run):
    write("a.wav")
    for options, streams in [
        ((), 2),
        (("--bitrate", "256k"), 2),
        (("--bitrate", "255999"), 1),
        (("--streams", "1"), 1),
    ]:
        run("encode", "a.wav", "-o", "a.jxc", "--overwrite", *options)
        header = bitstream.scan(io.BytesIO(Path("a.jxc").read_bytes())).header
        assert header.num_streams == streams


@pytest.mark.parametrize(
    "text, rate",
    [("6k", 6000), ("6000", 6000), ("6kbps", 6000), ("1.5k", 1500), (" 1.5 K ", 1500)],
)
def test_parse_bitrate(text, rate):
    assert cli.parse_bitrate(text) == rate


@pytest.mark.parametrize("text", ["", "k", "-6k", "6m", "0", "1e3", "nan", "9" * 400])
def test_parse_bitrate_refuses(text):
    with pytest.raises(ValueError, match=f"the bitrate is {text!r}, but should be"):
        cli.parse_bitrate(text)


def test_peel_is_what_encoding_at_that_rate_gives(run):
    for name in ("x/a.wav", "x/b/c.wav"):
        write(name, 30_000)
    run("encode", "x", "-o", "full")
    run("encode", "x", "-o", "low", "--streams", "1")
    done = run("peel", "full", "-o", "peeled", "--bitrate", "128k", "--json")
    assert done.status == 0
    for name in ("a.jxc", "b/c.jxc"):
        assert Path("peeled", name).read_bytes() == Path("low", name).read_bytes()
    record = json.loads(done.out.splitlines()[0])
    assert (record["streams"], record["bytes"]) == (1, Path("low/a.jxc").stat().st_size)
    piped = run(
        "peel", "-", "-o", "-", "--streams=1", stdin=Path("full/a.jxc").read_bytes()
    )
    assert piped.out == Path("low/a.jxc").read_bytes()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--bitrate=100k"], "100000 bit/s is not in the file: .* 128000, 256000"),
        (["--bitrate=300k"], "300000 bit/s is not in the file"),
        (["--streams=3"], "3 streams are to be kept, but the container has 2"),
    ],
)
def test_peel_cannot_add_streams(run, options, message):
    write("a.wav")
    run("encode", "a.wav", "-o", "a.jxc")
    done = run("peel", "a.jxc", "-o", "b.jxc", *options)
    assert done.status == 1
    assert re.search(message, done.err)
    assert not Path("b.jxc").exists()


def test_output_folder_inside_the_input_is_no_input(run):
    write("x/a.wav")
    run("encode", "x", "-o", "x")
    for _ in range(2):
        assert run("peel", "x", "-o", "x/low", "--streams=1").status == 0
    assert [str(p) for p in Path("x/low").rglob("*.jxc")] == ["x/low/a.jxc"]


def test_info(run):
    write("a[1].wav", 70_001, 2)
    run("encode", "a[1].wav", "-o", "a[1].jxc")
    size = Path("a[1].jxc").stat().st_size
    record = json.loads(run("info", "a[1].jxc", "--json").out)
    assert record == {
        "input": "a[1].jxc",
        "status": "ok",
        "model": "toy",
        "fingerprint": "0001020304050607",
        "sample_rate": RATE,
        "original_rate": RATE,
        "channels": 2,
        "streams": 2,
        "seconds": 70_001 / RATE,
        "samples": 70_001,
        "bytes": size,
        "overhead_bytes": size - 2 * 2 * 70_008,
        "stream_bytes": [2 * 70_008] * 2,
        "nominal_kbit_per_s": 512,
        "kbit_per_s": 8 * size / (70_001 / RATE) / 1000,
        "coder": "fixed",
        "damage": [],
    }
    shown = run("info", "a[1].jxc")
    assert shown.status == 0 and not shown.err
    for text in ("a[1].jxc", "toy", "0001020304050607", "70001", "140016", "all match"):
        assert text in shown.out.decode()


def test_info_checks_checksums_and_goes_on(run):
    write("a.wav")
    run("encode", "a.wav", "-o", "x/a.jxc")
    shutil.copy("x/a.jxc", "x/b.jxc")
    damage("x/a.jxc")
    Path("x/c.jxc").write_text("no container")
    done = run("info", "x", "missing.jxc", "--json")
    assert done.status == 1
    states = [json.loads(line)["status"] for line in done.out.splitlines()]
    assert states == ["damaged", "ok", "failed", "failed"]
    assert (
        "does not match its checksum"
        in json.loads(done.out.splitlines()[0])["damage"][0]
    )
    assert "error: missing.jxc: there is no such file" in done.err
    assert run("info", "x/a.jxc").status == 1
    assert run("info", "x/b.jxc").status == 0
    piped = run("info", "-", stdin=Path("x/b.jxc").read_bytes())
    assert piped.status == 0


def test_interrupt_leaves_nothing_behind(run, monkeypatch):
    write("x/a.wav")
    write("x/b.wav")
    encode_blocks = Toy.encode_blocks

    def interrupted(self, blocks, *options):
        yield from encode_blocks(self, blocks, *options)
        if Path("y/a.jxc").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(Toy, "encode_blocks", interrupted)
    done = run("encode", "x", "-o", "y")
    assert done.status == 130
    assert "interrupted: finished files are kept" in done.err
    assert [p.name for p in Path("y").iterdir()] == ["a.jxc"]


def test_overwriting_keeps_the_old_file_until_the_new_one_is_whole(run):
    write("a.wav")
    run("encode", "a.wav", "-o", "a.jxc")
    before = Path("a.jxc").read_bytes()
    cut("a.wav")
    assert run("encode", "a.wav", "-o", "a.jxc", "--overwrite").status == 1
    assert Path("a.jxc").read_bytes() == before


def test_version_and_bare_call(run):
    done = run("--version")
    assert (done.status, done.out) == (0, f"jaxcodec {jaxcodec.__version__}\n".encode())
    assert b"encode" in run("--help").out
    assert run().status == 2


def test_models(run, monkeypatch):
    about = {
        "fingerprint": "ab" * 8,
        "model": {
            "sample_rate": 16_000,
            "hop": 80,
            "patch": [3, 2],
            "frames_per_code": 2,
            "num_groups": 3,
            "codebook_size": 1024,
            "max_streams": 3,
        },
    }
    monkeypatch.setattr(pretrained, "available", lambda: ["esc_tiny"])
    monkeypatch.setattr(pretrained, "describe", lambda name: about)
    done = run("models")
    assert done.out == b"esc_tiny (default): 16000 Hz, 1.5, 3, 4.5 kbit/s\n"
    record = json.loads(run("models", "--json").out)
    assert record["bitrates"] == [1500, 3000, 4500] and record["default"]


def _take_interrupts():
    """Tests that run in the background may ignore them, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def program(*arguments, **options):
    """Starts the real program, with the toy as its only model."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import jaxcodec, test_cli\n"
        "jaxcodec.load = test_cli.load_toy\n"
        "from jaxcodec.cli import main; main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(jaxcodec.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # communicate() forgets what a buffer had read ahead
        **{"preexec_fn": _take_interrupts, **options},
    )


def test_help_info_and_peel_import_no_jax(tmp_path):
    header = Toy().header(RATE, 1, 8, 2)
    codes = np.zeros((1, 2, 8, 1), np.int32)
    path = tmp_path / "a.jxc"
    path.write_bytes(bitstream.write_bytes(header, codes))
    for arguments in (
        ["--help"],
        ["encode", "--help"],
        ["info", path],
        ["models"],
        ["peel", path, "-o", tmp_path / "b.jxc", "--streams", "1"],
    ):
        code = "from jaxcodec.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(Path(jaxcodec.__file__).parents[1])},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0
        imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
        assert "typer" in imported
        assert not imported & {"jax", "jaxlib", "flax", "optax", "soxr"}
        if "--help" in arguments:
            assert not imported & {"numpy", "soundfile"}


def test_reader_that_goes_away_is_no_error(tmp_path):
    soundfile.write(tmp_path / "a.wav", waveform(500_000), RATE)
    running = program("encode", tmp_path / "a.wav", "-o", "-")
    assert running.stdout.read(4) == b"\xb7JXC"
    running.stdout.close()
    assert running.wait(30) == 1
    assert running.stderr.read() == b""


def test_pipe_streams_while_it_is_open(tmp_path):
    running = program("encode", "-", "-o", "-")
    soundfile.write(tmp_path / "a.wav", waveform(100_000), RATE)
    data = (tmp_path / "a.wav").read_bytes()
    running.stdin.write(data[:40_000])  # a block of 16384 samples, and part of another
    first = b""
    while len(first) < 2 * 16_384:  # the codes of that block, whole
        ready, _, _ = select.select([running.stdout], [], [], 30)
        assert ready, f"only {len(first)} bytes came while the audio went on"
        first += running.stdout.read(1 << 16)
    rest, err = running.communicate(data[40_000:], 30)
    assert (running.returncode, err) == (0, b"")
    info = bitstream.scan(io.BytesIO(first + rest))
    assert info.header.num_samples == 100_000 and not info.damage


def test_sink_holds_nothing_back():
    raw = io.BytesIO()
    buffered = io.BufferedWriter(raw)
    sink = cli.Sink(buffered)
    sink.write(b"abc")
    assert (raw.getvalue(), sink.size) == (b"abc", 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_leave_nothing_behind(tmp_path, number):
    running = program("encode", "-", "-o", tmp_path / "a.jxc")
    soundfile.write(tmp_path / "a.wav", waveform(100_000), RATE)
    running.stdin.write((tmp_path / "a.wav").read_bytes()[:100_000])
    running.stdin.flush()
    for _ in range(300):
        if list(tmp_path.glob(".jaxcodec-*.part")):
            break
        time.sleep(0.1)
    else:
        pytest.fail("no temporary file appeared")
    running.send_signal(number)
    assert running.wait(30) == 128 + number
    assert b"Traceback" not in running.stderr.read()
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_full_disk_is_one_message(tmp_path, suffix):
    resource = pytest.importorskip("resource", reason="no limits on files here")
    audio = waveform(60_000)
    codes = np.concatenate(list(Toy().encode_blocks([audio], RATE, 2)), axis=-1)
    header = Toy().header(RATE, 1, 60_000, 2)
    (tmp_path / "a.jxc").write_bytes(bitstream.write_bytes(header, codes))
    running = program(
        "decode",
        tmp_path / "a.jxc",
        "-o",
        tmp_path / f"b.{suffix}",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
    )
    err = running.communicate(timeout=30)[1].decode()
    assert running.returncode == 1
    assert "File too large" in err and err.count("\n") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.jxc"]


@pytest.mark.slow
def test_default_model_end_to_end(tmp_path, monkeypatch, capfdbinary):
    monkeypatch.chdir(tmp_path)
    loaded = functools.cache(jaxcodec.load)  # its programs are traced once
    monkeypatch.setattr(
        jaxcodec, "load", lambda name, **_: loaded(name or pretrained.DEFAULT)
    )
    time_ = np.arange(44_100 * 2) / 44_100
    tone = 0.3 * np.sin(2 * np.pi * 220 * time_) * np.sin(2 * np.pi * 3 * time_)
    soundfile.write("a.wav", np.stack([tone, tone[::-1]], axis=1), 44_100)
    for arguments in (
        ["encode", "a.wav", "-o", "a.jxc"],
        ["decode", "a.jxc", "-o", "b.wav"],
        ["peel", "a.jxc", "-o", "c.jxc", "--streams", "1"],
        ["encode", "a.wav", "-o", "d.jxc", "--streams", "1"],
        ["decode", "c.jxc", "-o", "c.flac"],
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0, capfdbinary.readouterr().err
    assert Path("c.jxc").read_bytes() == Path("d.jxc").read_bytes()
    for name in ("b.wav", "c.flac"):
        info = soundfile.info(name)
        assert (info.frames, info.samplerate, info.channels) == (88_200, 44_100, 2)
    decoded = soundfile.read("b.wav")[0][:, 0]
    assert np.corrcoef(decoded, tone)[0, 1] > 0.5
