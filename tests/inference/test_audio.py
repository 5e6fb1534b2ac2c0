import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxcodec.inference.audio import Audio, FlacWriter, open_audio
from jaxcodec.inference.files import open_output


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
        list(Audio(16_000, 1, blocks, 10))


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


def test_flac_refuses_what_it_cannot_hold(here):
    message = "FLAC cannot hold 1 channels at 2000000 Hz .*: decode to WAV"
    with pytest.raises(ValueError, match=message), open_output(here / "a") as stream:
        FlacWriter(stream, 2_000_000, 1)
    assert not list(here.iterdir())


class FullDisk(io.BytesIO):
    def write(self, data):
        if self.tell() + len(data) > 20_000:
            raise OSError(28, "No space left on device")
        return super().write(data)


def test_flac_stops_as_soon_as_the_disk_is_full():
    with (
        pytest.raises(OSError, match="No space left on device"),
        FlacWriter(FullDisk(), 16_000, 1) as writer,
    ):
        for _ in range(10):
            writer.write(noise(10_000))
        pytest.fail("the writer went on")
