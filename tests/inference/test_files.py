import io
import os
import stat
from pathlib import Path

import pytest

from jaxcodec.bitstream import ContainerError, Header
from jaxcodec.inference import files
from jaxcodec.inference.files import Job, UsageError, find_jobs, open_output

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


def test_peek_header_takes_nothing():
    data = HEADER.to_bytes() + b"rest"
    header, source = files.peek_header(io.BytesIO(data))
    assert header == HEADER
    assert source.read(100) == data
    with pytest.raises(ContainerError, match="starts with b'RIFF'"):
        files.peek_header(io.BytesIO(b"RIFF"))
