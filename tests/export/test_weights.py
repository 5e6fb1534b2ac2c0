import json

import jax
import numpy as np
import pytest

from jaxcodec.bitstream import ProbabilityTables
from jaxcodec.export.weights import load_release, save_release
from tests.micro import MICRO, drawn


@pytest.fixture(scope="module")
def weights():
    return drawn()


@pytest.fixture
def tables():
    counts = np.random.default_rng(0).integers(0, 99, size=(3, 3, 16))
    return ProbabilityTables.from_counts(counts)


def test_a_release_comes_back_whole(tmp_path, weights, tables):
    mark = save_release(tmp_path / "new" / "micro", "micro", MICRO, weights, tables)
    release = load_release(tmp_path / "new" / "micro")
    assert (release.name, release.config, release.fingerprint) == ("micro", MICRO, mark)
    jax.tree.map(np.testing.assert_array_equal, release.variables, weights)
    np.testing.assert_array_equal(release.tables.frequencies, tables.frequencies)
    names = sorted(path.name for path in (tmp_path / "new" / "micro").iterdir())
    assert names == ["config.json", "weights.safetensors"]


def test_arrays_that_are_not_contiguous_are_written_right(tmp_path, weights):
    """safetensors itself scrambles them without a word."""
    turned = jax.tree.map(lambda a: np.asfortranarray(a), weights)
    save_release(tmp_path, "micro", MICRO, turned, None)
    jax.tree.map(
        np.testing.assert_array_equal, load_release(tmp_path).variables, weights
    )


def test_the_fingerprint_tells_weights_and_tables_apart(tmp_path, weights, tables):
    marks = {save_release(tmp_path, "micro", MICRO, weights, tables)}
    marks.add(save_release(tmp_path, "micro", MICRO, weights, None))
    other = jax.tree.map(np.copy, weights)
    other["params"]["quantizer_0"]["codebook"][0, 0, 0] += 1e-6
    marks.add(save_release(tmp_path, "micro", MICRO, other, tables))
    assert len(marks) == 3
    assert save_release(tmp_path, "micro", MICRO, weights, tables) in marks


def test_files_that_do_not_belong_together_are_refused(tmp_path, weights, tables):
    save_release(tmp_path, "micro", MICRO, weights, tables)
    config = tmp_path / "config.json"
    about = json.loads(config.read_text())
    config.write_text(json.dumps({**about, "fingerprint": "00" * 8}))
    with pytest.raises(ValueError, match="the files are damaged or of two models"):
        load_release(tmp_path)
    config.write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        load_release(tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_release(tmp_path)
    config.write_text(json.dumps(about))
    (tmp_path / "weights.safetensors").write_bytes(b"\0" * 50)
    with pytest.raises(ValueError, match="cannot be read"):
        load_release(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is no model: config\.json cannot be read"):
        load_release(tmp_path)
