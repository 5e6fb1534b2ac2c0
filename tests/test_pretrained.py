import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcodec
from jaxcodec import pretrained
from jaxcodec.metrics.signal import si_sdr

SPEECH = Path(__file__).parent / "samples" / "speech.flac"


@pytest.fixture(scope="module")
def codec():
    return jaxcodec.load()


@pytest.fixture(scope="module")
def speech():
    import soundfile

    return soundfile.read(SPEECH, dtype="float32")


def test_the_default_is_shipped():
    assert pretrained.DEFAULT in jaxcodec.available()


def test_importing_and_asking_needs_no_jax():
    code = (
        "import sys, jaxcodec; jaxcodec.available(); import jaxcodec.pretrained as p; "
        "p.describe(); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_model_is_refused_with_the_names_that_exist(tmp_path):
    with pytest.raises(ValueError, match=f"no model 'nothing'.*{pretrained.DEFAULT}"):
        jaxcodec.load("nothing")
    with pytest.raises(ValueError, match="is no model"):
        jaxcodec.load(tmp_path)


def test_every_shipped_model_says_what_it_is():
    for name in jaxcodec.available():
        folder = pretrained.FOLDER / name
        about = pretrained.describe(name)
        assert about["name"] == name
        assert about["fingerprint"] in (folder / "MODEL_CARD.md").read_text()
        scores = json.loads((folder / "scores.json").read_text())
        assert scores["fingerprint"] == about["fingerprint"]


@pytest.fixture(scope="module")
def coded(codec, speech):
    """What one call of the encoder's program takes."""
    audio, rate = speech
    return codec.encode(audio[: 5 * rate], rate)


def test_every_stream_brings_speech_closer(codec, speech, coded):
    from jaxcodec.bitstream import peel_bytes

    audio, whole = speech[0][: 5 * coded.sample_rate], coded.to_bytes()

    ratios, sizes = [], []
    for streams in range(1, 7):
        data = peel_bytes(whole, streams)
        decoded = jnp.asarray(codec.decode(data))
        ratios.append(float(si_sdr(jnp.asarray(audio)[None], decoded[None])[0]))
        sizes.append(len(data))
    assert sorted(ratios) == ratios, ratios
    assert ratios[-1] > 3
    assert np.diff(sizes).min() > 0
    # range coded: below the nominal rate, header and all
    assert 8 * sizes[-1] / coded.seconds < codec.config.bitrate(6)


def test_peeled_files_equal_files_of_that_bitrate(codec, speech, coded):
    from jaxcodec.bitstream import peel_bytes

    audio, rate = speech
    low = codec.encode(audio[: 5 * rate], rate, bitrate=3000).to_bytes()
    assert peel_bytes(coded.to_bytes(), 2) == low


def test_loading_does_not_wait_for_flax():
    """Only tracing a model needs it, and programs are kept."""
    code = "import sys, jaxcodec; jaxcodec.load(); assert 'flax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
