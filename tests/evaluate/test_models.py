import dataclasses
import json
import shutil

import numpy as np
import pytest

from jaxcodec.evaluate import Options, evaluate
from jaxcodec.evaluate.models import describe_model, find_models
from jaxcodec.evaluate.store import Store
from jaxcodec.experiment import Experiment, Origin, Schedule
from jaxcodec.export.weights import save_release
from tests.micro import MICRO, drawn
from tests.toys import voice, write_corpus

SIZES = {"chunk_codes": 16, "batch_size": 3}  # programs of other tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models of the same name, one of which tells how it was trained."""
    folder = tmp_path_factory.mktemp("models")
    for seed in range(2):
        save_release(folder / f"run{seed}", "micro", MICRO, drawn(seed=seed), None)
    plan = Schedule(steps=9, pretrain_steps=3, batch_size=1, clip_code_frames=4)
    experiment = Experiment(name="micro", model=MICRO, schedule=plan)
    text = json.dumps(dataclasses.asdict(experiment))
    (folder / "run1/experiment.json").write_text(text)
    return folder


def test_a_folder_of_models_is_an_ablation(folder):
    first, second = find_models([str(folder)], **SIZES)
    assert (first.name, second.name) == ("micro", "micro-2")
    assert first.version != second.version
    assert first.about == {
        "architecture": "Swin",
        "quantizer": "cross-scale RVQ",
        "pretraining": "not recorded",
    }
    assert second.about["pretraining"] == "3 steps"
    (again,) = find_models([str(folder / "run0"), str(folder / "run0")], **SIZES)
    assert again.version == first.version
    with pytest.raises(ValueError, match="no model 'nowhere'"):
        find_models(["nowhere"])


def test_a_model_that_went_on_from_another_says_so(folder, tmp_path):
    shutil.copytree(folder / "run1", tmp_path / "model")
    kept = tmp_path / "model/experiment.json"
    settings = json.loads(kept.read_text())
    assert settings["origin"] is None
    settings["origin"] = dataclasses.asdict(Origin(name="older", fingerprint="ab01"))
    kept.write_text(json.dumps(settings))
    assert describe_model(tmp_path / "model")["pretraining"] == "that of older ab01"


def test_every_bitrate_is_counted_from_its_own_bytes(folder):
    (system,) = find_models([str(folder / "run0")], **SIZES)
    codec = system._codec
    clips = [voice(0.3), np.zeros(0, np.float32), voice(0.1, seed=1)]
    trials = list(system.run(clips, system.settings))
    assert len(trials) == 9
    for trial in trials:
        if trial.clip == 1:
            assert "expected (samples,), at least one" in str(trial.outcome)
            continue
        clip, found = clips[trial.clip], trial.outcome
        streams = int(dict(trial.setting.values)["streams"])
        data = codec.encode(clip, 16_000, num_streams=streams).to_bytes()
        assert found.num_bytes == len(data)
        assert 0 < found.payload_bytes < found.num_bytes
        assert found.codes.shape[:2] == (streams, MICRO.num_groups)
        np.testing.assert_allclose(found.waveform, codec.decode(data), atol=1e-6)


def test_codebooks_are_judged_over_all_clips(folder, tmp_path):
    write_corpus(tmp_path / "data", 2)
    options = Options(
        data=tmp_path / "data",
        out=tmp_path / "out",
        models=(),
        metrics=("mel",),
        workers=1,
        examples=0,
    )
    (system,) = find_models([str(folder / "run0")], **SIZES)
    evaluate(options, [system])
    usage = Store(tmp_path / "out").about()["codebooks"]["micro"]
    assert usage["codes"] == 2 * 75  # 50 code frames per second of 1.5 s
    assert np.shape(usage["entropy"]) == (MICRO.max_streams, MICRO.num_groups)
    assert len(usage["utilisation"]) == MICRO.max_streams
    entropy = np.array(usage["entropy"])
    assert (entropy <= 4).all()
    np.testing.assert_allclose(usage["utilisation"][-1], entropy.mean() / 4, atol=1e-3)
