import io
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxcodec.bitstream import ContainerError, Header
from jaxcodec.inference import files
from jaxcodec.inference.files import Job, UsageError, find_jobs, open_audio, open_output

HEADER = Header(
    codec="toy",
    fingerprint=bytes(8),
    sample_rate=16_000,
    original_rate=16_000,
    channels=1,
    num_samples=10,
    stride=320,
    num_streams=1,
    num_groups=1,
    codebook_size=2,
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def plan(inputs, output):
    jobs = find_jobs(inputs, output, [".wav", ".flac"], ".jxc").jobs
    return [(str(job.source or "-"), str(job.target or "-")) for job in jobs]


@pytest.mark.parametrize(
    "inputs, output, expected",
    [
        (["a.wav"], "b", [("a.wav", "b")]),
        (["a.wav"], "new/b.jxc", [("a.wav", "new/b.jxc")]),
        (["a.wav"], "new/", [("a.wav", "new/a.jxc")]),
        (["a.wav"], "y", [("a.wav", "y/a.jxc")]),
        (["a.mp3"], "y", [("a.mp3", "y/a.jxc")]),
        (["a.wav"], "-", [("a.wav", "-")]),
        (["-"], "b.jxc", [("-", "b.jxc")]),
        (["-"], "-", [("-", "-")]),
        (["missing.wav"], "b", [("missing.wav", "b")]),
        (
            ["x/b.wav", "a.wav"],
            "new",
            [("x/b.wav", "new/b.jxc"), ("a.wav", "new/a.jxc")],
        ),
        (["a.wav", "a.wav"], "new", [("a.wav", "new/a.jxc")]),
        (
            ["x"],
            "new.d",
            [("x/b.wav", "new.d/b.jxc"), ("x/z/c.FLAC", "new.d/z/c.jxc")],
        ),
        (
            ["x", "a.wav"],
            "y",
            [
                ("x/b.wav", "y/b.jxc"),
                ("x/z/c.FLAC", "y/z/c.jxc"),
                ("a.wav", "y/a.jxc"),
            ],
        ),
    ],
)
def test_find_jobs(inputs, output, expected):
    touch("a.wav", "x/b.wav", "x/z/c.FLAC", "x/z/._c.flac", "x/text", "y/old.jxc")
    assert plan(inputs, output) == expected


def test_counts_what_it_leaves_out():
    touch("x/b.wav", "x/.b.wav", "x/text", "x/out/c.wav")
    assert find_jobs(["x"], "y", [".wav"], ".jxc").num_ignored == 2
    Path("x/out/c.wav").unlink()
    touch("x/out/c.jxc")
    assert find_jobs(["x"], "x/out", [".jxc", ".wav"], ".jxc") == files.Plan(
        (Job(Path("x/b.wav"), Path("x/out/b.jxc")),), 3
    )


@pytest.mark.parametrize(
    "inputs, output, message",
    [
        (["x"], "y", "x/a.flac and x/a.wav would both become y/a.jxc"),
        (["x/a.wav", "a.wav"], "y", "x/a.wav and a.wav would both become y/a.jxc"),
        (["a.wav"], "a.wav", "a.wav is an input, but would be replaced"),
        (["a.wav"], "./link.wav", "link.wav is an input"),
        (["a.wav"], "hard.wav", "hard.wav is an input"),
        (["a.wav", "link.wav"], "text", "OUT is the file 'text'"),
        (["-"], "x", "it has no name of its own"),
        (["-"], "new/", "it has no name of its own"),
        (["x"], "-", "several files cannot go to '-'"),
    ],
)
def test_refused_before_anything_is_touched(inputs, output, message):
    touch("a.wav", "x/a.wav", "x/a.flac", "text")
    Path("link.wav").symlink_to("a.wav")
    Path("hard.wav").hardlink_to("a.wav")
    with pytest.raises(UsageError, match=message):
        plan(inputs, output)
    assert not Path("y").exists()


def test_folder_without_audio_or_without_access():
    touch("x/text")
    with pytest.raises(ValueError, match=r"x holds no .wav or .flac files, but 1 oth"):
        plan(["x"], "y")


def test_unreadable_folder_is_an_error(monkeypatch):
    def walk(path, onerror):
        onerror(PermissionError(13, "Permission denied", "x/secret"))

    touch("x/a.wav")
    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(PermissionError, match="x/secret"):
        plan(["x"], "y")


def noise(num_samples, channels=1):
    samples = np.random.default_rng(0).normal(0, 0.1, (num_samples, channels))
    return samples.astype(np.float32)


def read_all(path, stdin=None):
    with open_audio(path, stdin) as audio:
        blocks = list(audio)
    assert max(map(len, blocks)) <= 1 << 14
    return audio, np.concatenate(blocks)


@pytest.mark.parametrize("through_pipe", [False, True])
@pytest.mark.parametrize(
    "file_format, subtype, is_known",
    [
        ("WAV", "PCM_16", True),
        ("WAV", "ULAW", True),
        ("FLAC", "PCM_24", True),
        ("OGG", "VORBIS", True),
        ("OGG", "OPUS", True),
        ("MP3", "MPEG_LAYER_III", False),
        ("AIFF", "PCM_16", True),
    ],
)
def test_open_audio(file_format, subtype, is_known, through_pipe):
    path = Path("a")
    soundfile.write(path, noise(40_001, 2), 16_000, subtype, format=file_format)
    stdin = io.BytesIO(path.read_bytes()) if through_pipe else None
    audio, samples = read_all(None if through_pipe else path, stdin)
    expected = soundfile.read(path, dtype="float32")[0]
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    assert audio.num_samples == (40_001 if is_known else None)
    assert (audio.expected, audio.num_read) == (40_001, 40_001)
    assert not audio.warnings
    assert audio.seconds == audio.expected_seconds == 40_001 / 16_000


def test_streamed_flac_does_not_know_its_length():
    soundfile.write("a.flac", noise(40_001), 16_000)
    data = bytearray(Path("a.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    Path("a.flac").write_bytes(data)
    audio, samples = read_all(Path("a.flac"))
    assert audio.num_samples is None and audio.expected is None
    assert len(samples) == 40_001


@pytest.mark.parametrize("file_format", ["FLAC", "OGG", "MP3", "WAV"])
def test_memory_stays_flat(file_format):
    with soundfile.SoundFile("a", "w", 16_000, 1, format=file_format) as sound:
        for _ in range(1 << 6):  # libsndfile crashes on an OGG written in one piece
            sound.write(np.zeros((1 << 15, 1), np.float32))
    with open_audio(Path("a")) as audio:
        assert max(block.nbytes for block in audio) <= 1 << 16
    assert audio.num_read == 1 << 21


def truncate(path, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


@pytest.mark.parametrize("through_pipe", [False, True])
@pytest.mark.parametrize(
    "file_format, message",
    [
        ("WAV", "its header promises [0-9]+ {}samples, but .*: it is cut short"),
        ("FLAC", "it cannot be decoded .flac decoder lost sync.: it is cut short"),
    ],
)
def test_cut_audio(file_format, message, through_pipe):
    path = Path("a")
    soundfile.write(path, noise(60_000), 16_000, format=file_format)
    truncate(path)
    stdin = io.BytesIO(path.read_bytes()) if through_pipe else None
    # A file is refused before anything is decoded, a pipe at its end.
    unit = "" if through_pipe else "bytes of "
    with pytest.raises(ValueError, match=message.format(unit)):
        read_all(None if through_pipe else path, stdin)


def test_damaged_ogg_is_shorter_than_promised():
    soundfile.write("a.ogg", noise(60_000), 16_000)
    data = bytearray(Path("a.ogg").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    Path("a.ogg").write_bytes(data)
    with pytest.raises(ValueError, match=r"promises 60000 samples, but it has \d+: "):
        read_all(Path("a.ogg"))


def test_more_samples_than_promised():
    blocks = iter([np.zeros((6, 1), np.float32)] * 2)
    with pytest.raises(ValueError, match="promises 10 samples, but it has more"):
        list(files.Audio(16_000, 1, blocks, 10))


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "it is empty .0 bytes."),
        (b"no audio at all", "it cannot be read as audio .*: expected WAV, FLAC, OGG"),
    ],
)
@pytest.mark.parametrize("through_pipe", [False, True])
def test_no_audio(data, message, through_pipe):
    Path("a.wav").write_bytes(data)
    with (
        pytest.raises(ValueError, match=message),
        open_audio(None if through_pipe else Path("a.wav"), io.BytesIO(data)),
    ):
        pass


def test_no_samples():
    soundfile.write("a.wav", noise(0), 16_000)
    with pytest.raises(ValueError, match="it has no samples"):
        read_all(Path("a.wav"))


def test_named_pipes_are_read_as_pipes():
    os.mkfifo("fifo")
    soundfile.write("a.flac", noise(100), 16_000)
    if not os.fork():
        Path("fifo").write_bytes(Path("a.flac").read_bytes())
        os._exit(0)
    assert len(read_all(Path("fifo"))[1]) == 100
    os.wait()


def test_output_appears_only_when_whole(here):
    target = here / "deep" / "a"
    with open_output(target) as stream:
        stream.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~_umask()
    with pytest.raises(KeyboardInterrupt), open_output(target) as stream:
        stream.write(b"newer")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"new"
    assert [p.name for p in target.parent.iterdir()] == ["a"]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_output_keeps_links():
    touch("real")
    Path("link").symlink_to("real")
    with open_output(Path("link")) as stream:
        stream.write(b"new")
    assert Path("link").is_symlink()
    assert Path("real").read_bytes() == b"new"


def test_output_onto_a_folder(here):
    with pytest.raises(IsADirectoryError), open_output(here):
        pass


def test_long_names_fit():
    name = "a" * 251 + ".jxc"  # as long as file systems take
    with open_output(Path(name)) as stream:
        stream.write(b"new")
    assert Path(name).read_bytes() == b"new"


def test_flac_refuses_what_it_cannot_hold(here):
    message = "FLAC cannot hold 1 channels at 2000000 Hz .*: decode to WAV"
    with pytest.raises(ValueError, match=message), open_output(here / "a") as stream:
        files.FlacWriter(stream, 2_000_000, 1)
    assert not list(here.iterdir())


class FullDisk(io.BytesIO):
    def write(self, data):
        if self.tell() + len(data) > 20_000:
            raise OSError(28, "No space left on device")
        return super().write(data)


def test_flac_stops_as_soon_as_the_disk_is_full():
    with (
        pytest.raises(OSError, match="No space left on device"),
        files.FlacWriter(FullDisk(), 16_000, 1) as writer,
    ):
        for _ in range(10):
            writer.write(noise(10_000))
        pytest.fail("the writer went on")


def test_peek_header_takes_nothing():
    data = HEADER.to_bytes() + b"rest"
    header, source = files.peek_header(io.BytesIO(data))
    assert header == HEADER
    assert source.read(100) == data
    with pytest.raises(ContainerError, match="starts with b'RIFF'"):
        files.peek_header(io.BytesIO(b"RIFF"))
