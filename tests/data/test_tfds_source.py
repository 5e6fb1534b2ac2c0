import io
import json
import pickle
import sys

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds
from etils import epath

from jaxcodec.data.opening import open_source
from jaxcodec.data.sources import BadAudio, Extent
from jaxcodec.data.survey import survey
from jaxcodec.data.tfds_source import find_dataset, from_tfds
from tests.data.recordings import RATE, noise, ramp, write


@pytest.fixture(autouse=True)
def _no_tensorflow():
    yield
    assert "tensorflow" not in sys.modules


def file_bytes(samples, rate=RATE):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="FLAC")
    return stream.getvalue()


WAVES = [ramp(3_000 + 100 * number) for number in range(5)]
STEREO = np.stack([ramp(2_000), ramp(2_000, 3_000)], axis=1)
STORED = {  # feature, what is put into it, whether rates must be given
    "int16": (
        tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes"),
        WAVES,
    ),
    "zlib": (
        tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="zlib"),
        WAVES,
    ),
    "int64": (
        tfds.features.Tensor(shape=(None,), dtype=np.int64),
        [wave.astype(np.int64) for wave in WAVES],
    ),
    "float32": (
        tfds.features.Tensor(shape=(None,), dtype=np.float32),
        [(wave / 32_768).astype(np.float32) for wave in WAVES],
    ),
    "stereo": (
        tfds.features.Tensor(shape=(None, 2), dtype=np.int16, encoding="bytes"),
        [STEREO] * 5,
    ),
    "files": (tfds.features.Scalar(np.str_), [file_bytes(wave) for wave in WAVES]),
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Returns a function that prepares a dataset that is none of ours."""
    root = tmp_path_factory.mktemp("datasets")

    class Foreign(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")
        code_path = epath.Path(__file__)  # else tfds needs importlib_resources
        stored = "int16"

        def _info(self):
            features = {"speech": STORED[self.stored][0], "n": tfds.features.Text()}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, value in enumerate(STORED[self.stored][1]):
                yield number, {"speech": value, "n": f"number {number}"}

    def prepare(stored):
        Foreign.stored = stored
        builder = Foreign(data_dir=str(root / stored), file_format="array_record")
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=2)
        )
        return root / stored

    tfds.disable_progress_bar()
    return prepare


@pytest.mark.parametrize("stored", list(STORED))
def test_samples_are_read_however_they_are_stored(foreign, stored):
    root = foreign(stored)
    rate = None if stored == "files" else RATE
    source = pickle.loads(
        pickle.dumps(open_source("tfds:foreign", data_dir=root, sample_rate=rate))
    )
    expected = [STEREO.mean(axis=1)] * 5 if stored == "stereo" else WAVES
    assert len(source) == 5
    for index, wave in enumerate(expected):
        assert source.extent(index) == Extent(len(wave), RATE)
        read = source.read(index, 500, 1_000)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read * 32_768, wave[500:1_500])
    part = open_source(
        "tfds:foreign:1.2.0", data_dir=root, split="train[2:4]", sample_rate=rate
    )
    np.testing.assert_array_equal(part.read(1, 0, 9), source.read(3, 0, 9))
    with pytest.raises(BadAudio, match="it ends at sample"):
        source.read(0, 1_500, 2_000)
    if rate:
        with pytest.raises(ValueError, match="does not tell the sample rate of 'spee"):
            open_source("tfds:foreign", data_dir=root)


def test_the_audio_feature_of_tfds_needs_no_tensorflow(foreign):
    """Its class does: what it writes is read by what features.json says."""
    folder = find_dataset("foreign", foreign("int64"))
    config = folder / "features.json"
    described = json.loads(config.read_text())
    feature = described["featuresDict"]["features"]["speech"]
    feature["pythonClassName"] = "tensorflow_datasets.core.features.audio_feature.Audio"
    feature["audio"] = {**feature.pop("tensor"), "sampleRate": "11025"}
    config.write_text(json.dumps(described))
    with pytest.raises(ModuleNotFoundError, match="tensorflow"):
        tfds.builder_from_directory(str(folder))
    source = from_tfds(folder)
    assert source.extent(4) == Extent(3_400, 11_025)
    np.testing.assert_array_equal(source.read(4, 0, 3_400) * 32_768, WAVES[4])


def test_bad_records_are_bad_audio(foreign, monkeypatch):
    good = file_bytes(noise(0.5))
    spoilt = [good, b"", b"no audio at all", good[: len(good) // 3], good]
    monkeypatch.setitem(STORED, "spoilt", (STORED["files"][0], spoilt))
    source = open_source("tfds:foreign", data_dir=foreign("spoilt"))
    corpus = survey(source, max_bad=0.5, listen=0)
    assert [(fault.name, fault.kind) for fault in corpus.faults] == [
        ("train record 1", "empty"),
        ("train record 2", "unreadable"),
    ]
    with pytest.raises(BadAudio, match=r"decoded from sample|ends at sample"):
        source.read(3, 3_000, 1_000)


def test_what_is_no_dataset_is_refused(foreign, tmp_path):
    root = foreign("zlib")
    folder = find_dataset("foreign", root)
    with pytest.raises(
        FileNotFoundError, match=r"dataset nothing is not in .*`tfds build nothing"
    ):
        open_source("tfds:nothing", data_dir=root)
    with pytest.raises(ValueError, match=r"no split 'dev': it has train"):
        from_tfds(folder, "dev", sample_rate=RATE)
    with pytest.raises(ValueError, match=r"no feature 'voice': it has .*speech"):
        from_tfds(folder, key="voice", sample_rate=RATE)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="stored as tfrecord, which has no random"):
        from_tfds(folder, sample_rate=RATE)
    write(tmp_path / "a.wav", ramp(100))
    with pytest.raises(ValueError, match="a folder of audio, which has no splits"):
        open_source(tmp_path, split="train")
