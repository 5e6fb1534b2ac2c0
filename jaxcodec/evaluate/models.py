"""Our own codecs as systems of an evaluation."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcodec.baselines.system import RATE, Outcome, Setting, Trial

if TYPE_CHECKING:
    from jaxcodec.inference.codec import Codec

__all__ = ["ModelSystem", "find_models"]

GROUP = 60 * RATE  # samples that are coded in one go


class ModelSystem:
    """A codec with its weights: coded once at the highest bitrate, peeled to others.

    Every bitrate is decoded from the bytes of a `.jxc` file, and these are counted.
    """

    kind = "model"

    def __init__(self, codec: "Codec", about: dict[str, str], name: str | None = None):
        self._codec = codec
        self.name = name or codec.name
        self.version = codec.fingerprint.hex()
        self.about = about
        self.settings = tuple(
            Setting(f"{rate / 1000:g}k", rate, (("streams", str(number)),))
            for number, rate in enumerate(codec.config.bitrates, start=1)
        )
        self._is_warm = False

    @property
    def codebook_size(self) -> int:
        """Codewords of a codebook."""
        return self._codec.config.codebook_size

    def run(
        self, clips: Sequence[np.ndarray], settings: Sequence[Setting]
    ) -> Iterator[Trial]:
        """Every clip at every setting; what cannot be coded fails by itself."""
        self._warm_up()
        for group in _groups(clips):
            try:
                yield from self._run_group(group, clips, settings)
            except ValueError:  # of one clip, and the others are coded without it
                for index in group:
                    yield from self._run_alone(index, clips, settings)

    def _run_alone(
        self, index: int, clips: Sequence[np.ndarray], settings: Sequence[Setting]
    ) -> Iterator[Trial]:
        try:
            yield from list(self._run_group([index], clips, settings))
        except ValueError as error:
            yield from (Trial(index, setting, error) for setting in settings)

    def _run_group(
        self,
        group: Sequence[int],
        clips: Sequence[np.ndarray],
        settings: Sequence[Setting],
    ) -> Iterator[Trial]:
        from jaxcodec.bitstream import peel_bytes
        from jaxcodec.inference.batched import decode_many, encode_many

        waveforms = [clips[index] for index in group]
        shares = np.array([len(waveform) for waveform in waveforms], float)
        shares /= max(shares.sum(), 1)
        begun = time.perf_counter()
        coded = encode_many(self._codec, waveforms, RATE)
        whole = [item.to_bytes() for item in coded]
        encode_seconds = time.perf_counter() - begun
        trials: list[Trial] = []
        for setting in settings:
            streams = int(dict(setting.values)["streams"])
            files = [peel_bytes(data, streams) for data in whole]
            begun = time.perf_counter()
            decoded = decode_many(self._codec, [self._codec.read(f) for f in files])
            decode_seconds = time.perf_counter() - begun
            for index, share, data, waveform, item in zip(
                group, shares, files, decoded, coded, strict=True
            ):
                outcome = Outcome(
                    waveform=waveform,
                    num_bytes=len(data),
                    payload_bytes=_payload(data),
                    encode_seconds=encode_seconds * share,
                    decode_seconds=decode_seconds * share,
                    codes=item.codes[0, :streams],
                )
                trials.append(Trial(index, setting, outcome))
        yield from trials

    def _warm_up(self) -> None:
        """Compiles the programs, so that no clip's time includes that."""
        if not self._is_warm:
            second = np.zeros(RATE, np.float32)
            self._codec.decode(self._codec.encode(second, RATE))
            self._is_warm = True


def find_models(names: Sequence[str], **options: Any) -> list[ModelSystem]:
    """Loads models by name, by folder, or all in the folders of a folder.

    Args:
        names: `default`, a shipped model, a folder with weights, or a folder of those.
        options: see `inference.codec.Codec`.

    Raises:
        ValueError: there is no such model.
    """
    from jaxcodec import pretrained

    places: list[Path] = []
    for name in names:
        wanted = None if name == "default" else name
        if wanted and wanted not in pretrained.available() and Path(wanted).is_dir():
            below = sorted(p.parent for p in Path(wanted).glob("*/config.json"))
            if below and not (Path(wanted) / "config.json").is_file():
                places += below
                continue
        places.append(pretrained.find(wanted))
    systems: list[ModelSystem] = []
    for place in dict.fromkeys(path.resolve() for path in places):
        codec = pretrained.load(place, **options)
        name, number = codec.name, 2
        while name in [system.name for system in systems]:
            name, number = f"{codec.name}-{number}", number + 1
        systems.append(ModelSystem(codec, describe_model(place), name))
    return systems


def describe_model(folder: Path) -> dict[str, str]:
    """What an ablation table says about a model: blocks, quantizer, pretraining.

    Pretraining is known where `experiment.json` lies beside the weights.
    """
    model = json.loads((folder / "config.json").read_text())["model"]
    about = {
        "architecture": {"swin": "Swin", "conv": "convolution"}[model["backbone"]],
        "quantizer": {"esc": "cross-scale RVQ", "rvq": "RVQ"}[model["kind"]],
        "pretraining": "not recorded",
    }
    experiment = folder / "experiment.json"
    if experiment.is_file():
        settings = json.loads(experiment.read_text())
        steps, origin = settings["schedule"]["pretrain_steps"], settings.get("origin")
        about["pretraining"] = f"{steps} steps" if steps else "none"
        if origin:
            about["pretraining"] = f"that of {origin['name']} {origin['fingerprint']}"
    return about


def _groups(clips: Sequence[np.ndarray]) -> Iterator[list[int]]:
    """Indices of clips that are coded together."""
    group: list[int] = []
    length = 0
    for index, clip in enumerate(clips):
        group.append(index)
        length += len(clip)
        if length >= GROUP:
            yield group
            group, length = [], 0
    if group:
        yield group


def _payload(data: bytes) -> int:
    import io

    from jaxcodec.bitstream import scan

    return sum(scan(io.BytesIO(data)).stream_bytes)
