import numpy as np
import pytest
import soundfile

from jaxcodec.evaluate import Options, evaluate
from jaxcodec.report import report
from tests.toys import Broken, Noisy, write_corpus


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory):
    """The folder of an evaluation with three codecs, one of which fails, reported."""
    root = tmp_path_factory.mktemp("report")
    data = write_corpus(root / "da<ta")
    soundfile.write(data / "silence.wav", np.zeros(16_000), 16_000)
    (data / "text.wav").write_text("no audio")
    about = {"architecture": "Swin", "quantizer": "RVQ", "pretraining": "none"}
    ours, other = Noisy("ours", kind="model"), Noisy("ours-2", kind="model")
    ours.about = other.about = about
    systems = [ours, other, Noisy("a<b", (15, 5)), Broken("broken", (1,))]
    options = Options(
        data=data,
        out=root / "out",
        models=(),
        metrics=("si_sdr", "mel"),
        workers=1,
        examples=2,
        command="jaxcodec evaluate --data 'a & b'",
    )
    evaluate(options, systems)
    report(root / "out")
    return root / "out"
