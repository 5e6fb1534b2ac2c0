import dataclasses
import itertools
import json
import signal
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import soundfile

from jaxcodec.baselines import installed
from jaxcodec.baselines.system import Setting
from jaxcodec.evaluate import Options, evaluate, tasks
from jaxcodec.evaluate.score import Scorer, _Job, score
from jaxcodec.evaluate.store import Store
from tests.toys import Broken, Noisy, voice, write_corpus

NAMES = ("si_sdr", "mel", "lsd")  # need no package


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def run(corpus, out, *systems, progress=None, **options):
    plain = {"models": (), "metrics": NAMES, "workers": 1, "examples": 1} | options
    options = Options(data=corpus, out=out, **plain)
    return evaluate(options, systems, progress)


def means(out, name):
    rows = Store(out).rows.values()
    settings = {row["setting"] for row in rows}
    return {
        setting: np.mean([r["scores"][name] for r in rows if r["setting"] == setting])
        for setting in settings
    }


def test_quality_falls_with_the_noise(corpus, tmp_path):
    result = run(corpus, tmp_path, Noisy(ratios=(30, 20, 10, 0)))
    assert (result.num_rows, result.num_new, result.num_failed) == (12, 12, 0)
    ratio, mel, lsd = (means(tmp_path, name) for name in NAMES)
    order = ["30dB", "20dB", "10dB", "0dB"]
    for better, worse in itertools.pairwise(order):
        assert ratio[better] > ratio[worse]
        assert mel[better] < mel[worse]
        assert lsd[better] < lsd[worse]
    assert ratio["20dB"] == pytest.approx(20, abs=0.5)


@pytest.mark.parametrize("delay", [0, 95, 1105, -95])
def test_a_delayed_copy_scores_as_a_copy(corpus, tmp_path, delay):
    run(corpus, tmp_path, Noisy(ratios=("inf",), delay=delay))
    for row in Store(tmp_path).rows.values():
        assert row["scores"] == {"si_sdr": 100, "mel": 0, "lsd": 0}
        assert (row["delay"], row["length_error"]) == (delay, delay)


def test_nothing_is_computed_twice(corpus, tmp_path):
    seen = []
    run(corpus, tmp_path, Noisy(), progress=lambda *step: seen.append(step), limit=2)
    assert [step[:2] for step in seen] == [(i, 6) for i in range(7)]
    again = Noisy()
    assert run(corpus, tmp_path, again, limit=2).num_new == 0
    assert again.calls == []
    more = Noisy(ratios=(20, 10, 0, 5))
    assert run(corpus, tmp_path, more, limit=2).num_new == 2
    assert {label for _, label in more.calls} == {"5dB"}
    whole = Noisy(ratios=(20, 10, 0, 5))
    result = run(corpus, tmp_path, whole)
    assert (result.num_new, result.num_rows) == (4, 12)
    other = Noisy()
    other.version = "2"  # new weights
    assert run(corpus, tmp_path, other).num_rows == 9


def test_groups_of_clips_do_not_mix(corpus, tmp_path, monkeypatch):
    run(corpus, tmp_path / "together", Noisy())
    monkeypatch.setattr(tasks, "GROUP", 1)
    alone = Noisy()
    run(corpus, tmp_path / "alone", alone)
    assert len(alone.calls) == 9
    found = [Store(tmp_path / name).rows for name in ("together", "alone")]
    assert found[0] == found[1]


def test_clips_are_known_by_their_content(corpus, tmp_path):
    run(corpus, tmp_path / "out", Noisy(), examples=0)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in corpus.glob("*.wav"):
        (moved / f"other-{path.name}").write_bytes(path.read_bytes())
    soundfile.write(
        moved / "same.flac", soundfile.read(corpus / "clip0.wav")[0], 16_000
    )
    result = run(moved, tmp_path / "out", Noisy(), examples=0)
    assert result.num_new == 0
    assert result.left_out == {
        "same.flac": "it holds the same samples as other-clip0.wav."
    }


def test_a_killed_run_goes_on(corpus, tmp_path):
    class Killed(Exception):
        pass

    def kill(done, total, what):
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        run(corpus, tmp_path, Noisy(), progress=kill)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"key": "half a li')
    assert run(corpus, tmp_path, Noisy()).num_new == 5
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 9


def test_new_metrics_are_added_to_old_rows(corpus, tmp_path):
    run(corpus, tmp_path, Noisy(), metrics=("mel",))
    before = dict(Store(tmp_path).rows)
    copy = Noisy()  # under the same name and version
    copy._code = lambda clip, setting: Noisy(ratios=("inf",))._code(
        clip, Setting("", 1000.0, (("ratio", "inf"),))
    )
    assert run(corpus, tmp_path, copy, metrics=("mel", "lsd")).num_new == 9
    for key, row in Store(tmp_path).rows.items():
        assert row["scores"] == {"lsd": 0.0} | before[key]["scores"]
        assert row["scores"]["mel"] > 0  # which was not measured anew
    assert run(corpus, tmp_path, Noisy(), metrics=("lsd",)).num_new == 0


def test_silence_and_one_sample_fail_and_are_counted(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    soundfile.write(data / "silence.wav", np.zeros(16_000), 16_000)
    soundfile.write(data / "one.wav", np.full(1, 0.5), 16_000)
    soundfile.write(data / "voice.wav", voice(), 16_000)
    (data / "broken.wav").write_bytes(b"RIFF and nothing else")
    soundfile.write(data / "empty.wav", np.zeros(0), 16_000)
    soundfile.write(data / "odd.wav", np.array([0, np.nan, 1]), 16_000, "FLOAT")
    out = tmp_path / "out"
    result = run(data, out, Noisy(ratios=(10,)))
    assert (result.num_rows, result.num_failed, result.num_undecoded) == (3, 2, 0)
    assert "cannot be read" in result.left_out.pop("broken.wav")
    assert result.left_out == {
        "empty.wav": "it has no samples.",
        "odd.wav": "1 of its samples are not finite numbers.",
    }
    rows = {row["seconds"]: row for row in Store(out).rows.values()}
    assert rows[1.0]["failures"].keys() == {"si_sdr"}
    assert rows[1 / 16_000]["failures"].keys() == {"si_sdr", "mel", "lsd"}
    assert not rows[1.5]["failures"]
    assert run(data, out, Noisy(ratios=(10,))).num_new == 0
    assert run(data, out, Noisy(ratios=(10,)), retry_failed=True).num_new == 2


def test_a_codec_that_fails_stops_no_other(corpus, tmp_path):
    result = run(corpus, tmp_path, Broken("broken"), Noisy())
    assert (result.num_rows, result.num_failed, result.num_undecoded) == (18, 9, 9)
    broken = [r for r in Store(tmp_path).rows.values() if r["system"] == "broken"]
    assert {r["failures"]["codec"] for r in broken} == {"the encoder <b>fell over</b>"}
    assert result.undecoded == {"broken": "the encoder <b>fell over</b>"}
    assert run(corpus, tmp_path, Broken("broken"), Noisy()).num_new == 0
    result = run(corpus, tmp_path, Noisy(), limit=1)
    assert (result.num_rows, result.num_failed, result.num_undecoded) == (6, 3, 3)
    result = run(corpus, tmp_path, Noisy("third"))
    assert result.num_rows == 27  # codecs of earlier runs stay


class Coded(Noisy):
    """Two streams of four codewords; the second uses two of them."""

    codebook_size = 4

    def _code(self, clip, setting):
        codes = np.array([[[0, 1, 2, 3]], [[0, 0, 1, 1]]])
        return dataclasses.replace(super()._code(clip, setting), codes=codes)


def test_codebooks_are_judged_and_kept(corpus, tmp_path):
    run(corpus, tmp_path, Coded("coded"))
    run(corpus, tmp_path, Noisy())
    assert Store(tmp_path).about()["codebooks"] == {
        "coded": {
            "codebook_size": 4,
            "codes": 12,  # of three clips
            "entropy": [[2.0], [1.0]],
            "used": [[4], [2]],
            "utilisation": [1.0, 0.75],
        }
    }


def test_a_missing_encoder_is_told_and_not_fatal(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(installed.shutil, "which", lambda program: None)
    result = run(corpus, tmp_path, Noisy(), baselines=("opus",))
    assert result.num_rows == 9
    assert "opus is not installed: get opus-tools" in result.missing["opus"]
    with pytest.raises(
        ValueError, match="no baseline 'opsu': choose among opus, amrwb"
    ):
        run(corpus, tmp_path, Noisy(), baselines=("opsu",))


@pytest.mark.parametrize("delay", [95, -95])
def test_examples_are_kept_without_their_delay(corpus, tmp_path, delay):
    assert run(corpus, tmp_path, Noisy(ratios=("inf",)), examples=0).num_new == 3
    codec = Noisy(ratios=("inf",), delay=delay)
    assert run(corpus, tmp_path, codec, examples=2).num_new == 2
    assert run(corpus, tmp_path, codec, examples=2).num_new == 0
    folders = sorted((tmp_path / "examples").iterdir())
    assert len(folders) == 2
    for folder in folders:
        original = soundfile.read(folder / "original.flac")[0]
        decoded = soundfile.read(folder / "noisy@infdB.flac")[0]
        original[: max(-delay, 0)] = 0  # which the codec has lost
        np.testing.assert_array_equal(original, decoded)


@pytest.mark.parametrize(
    ("options", "systems", "message"),
    [
        ({}, [], "no codec to evaluate"),
        ({}, [Noisy(), Noisy()], "several codecs are called 'noisy'"),
        ({"metrics": ("psnr",)}, [Noisy()], "no metric 'psnr'"),
        ({"codecs": ("x",)}, [], "no name or not two commands"),
    ],
)
def test_wrong_options(corpus, tmp_path, options, systems, message):
    with pytest.raises(ValueError, match=message):
        run(corpus, tmp_path, *systems, **options)


def test_what_is_shorter_than_a_delay_tells_none():
    late = np.pad(voice(), (7, 0))
    for length, delay in ((100, 0), (8000, 7)):
        found = score(voice()[:length], late[:length], ("si_sdr",))
        assert found.delay == delay


def test_processes_score_as_one_does_and_one_may_die():
    target, estimate = voice(), (0.5 * voice() + 0.01).astype(np.float32)
    expected = score(target, estimate, NAMES)
    with Scorer(workers=2) as scorer:
        scorer.submit("a", target, estimate, NAMES)
        dead = Future()
        dead.set_exception(BrokenProcessPool("a process died"))
        scorer._waiting[dead] = _Job("b", target, estimate, NAMES)
        found = dict(scorer.finished(everything=True))
    assert found == {"a": expected, "b": expected}


def test_an_interrupted_run_leaves_no_process():
    with pytest.raises(KeyboardInterrupt), Scorer(workers=2) as scorer:
        scorer.submit("a", voice(), voice(), NAMES)
        processes = list(scorer._pool._processes.values())
        # a terminal sends it to all processes, and each would say so at length
        found = scorer._pool.submit(signal.getsignal, signal.SIGINT).result()
        assert found == signal.SIG_IGN
        raise KeyboardInterrupt
    assert processes
    for process in processes:
        process.join(60)  # a loaded machine takes its time
        # the pool's thread waits, too; if it is the one that is told, it notes it later
        for _ in range(600):
            if process.exitcode is not None:
                break
            time.sleep(0.1)
        assert process.exitcode == -signal.SIGTERM
