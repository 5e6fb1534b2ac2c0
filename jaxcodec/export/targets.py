"""The targets: what each writes into its folder, and how that is loaded again."""

import dataclasses
import importlib.util
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from jaxcodec.arrays import Shaped
from jaxcodec.export import programs
from jaxcodec.export.check import Candidate, reference
from jaxcodec.export.portable import TABLES, Portable, read_manifest, read_tables
from jaxcodec.export.precision import PRECISIONS
from jaxcodec.export.weights import WEIGHTS, Release, load_release, write_tensors
from jaxcodec.inference.chunked import Chunking
from jaxcodec.modules.policy import Policy

__all__ = ["TARGETS", "Plan", "Target"]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What is to be exported."""

    release: Release
    weights: dict[str, Shaped[np.ndarray, "..."]]  # as they are stored
    precision: str
    num_streams: int  # that the encoder makes
    encoder_shape: Chunking
    decoder_shape: Chunking


@dataclasses.dataclass(frozen=True)
class Target:
    """A format and its runtime."""

    write: Callable[[Plan, Path], dict[str, Any]]  # returns its part of the manifest
    load: Callable[[Path], Candidate]
    prepare: Callable[[Plan], None]  # refuses what cannot be exported
    has_programs: bool  # of fixed streams, beside or instead of weights
    precisions: tuple[str, ...] = PRECISIONS


def _need(extra: str, *modules: str) -> None:
    """Refuses to begin without what a target needs."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(
                f"{module} is not installed, but this export needs it: "
                f"pip install 'jaxcodec[{extra}]'"
            )


def _anything(plan: Plan) -> None:
    """Every model can be exported so."""


def _write_release(plan: Plan, folder: Path, runtime: str) -> dict[str, Any]:
    """Weights of another precision are another model, with its own fingerprint."""
    release = plan.release
    mark = write_tensors(folder, release.name, release.config, plan.weights)
    return {"runtime": runtime, "weights": WEIGHTS, "fingerprint": mark.hex()}


# safetensors: our own format, in any precision


def _write_safetensors(plan: Plan, folder: Path) -> dict[str, Any]:
    about = _write_release(plan, folder, f"jax {metadata.version('jax')}")
    return {"target": "safetensors", **about}


def _load_safetensors(folder: Path) -> Candidate:
    release = load_release(folder)
    return reference(read_manifest(folder), release.config, release.variables)


# torch: the same files, and the model in one file of Python


def _prepare_torch(plan: Plan) -> None:
    _need("torch", "torch")
    from jaxcodec.export.torch_twin import ESC
    from jaxcodec.models.named import config_to_dict

    ESC(config_to_dict(plan.release.config))  # refuses other kinds of models


def _write_torch(plan: Plan, folder: Path) -> dict[str, Any]:
    shutil.copyfile(Path(__file__).parent / "torch_twin.py", folder / "torch_twin.py")
    about = _write_release(plan, folder, f"torch {metadata.version('torch')}")
    return {"target": "torch", "code": "torch_twin.py", **about}


def _load_torch(folder: Path) -> Candidate:
    spec = importlib.util.spec_from_file_location(
        "jaxcodec_exported_twin", folder / "torch_twin.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _Twin(module.load(folder))


class _Twin:
    """The PyTorch model as a candidate: whole recordings instead of chunks."""

    def __init__(self, model: Any):
        self._model = model

    def encode(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        import torch

        del sample_rate
        batch = torch.from_numpy(np.ascontiguousarray(waveform.T))
        return self._model.encode(batch).numpy().astype(np.int32)

    def decode(self, codes: np.ndarray, num_samples: int) -> np.ndarray:
        import torch

        return self._model.decode(torch.from_numpy(codes).long(), num_samples).numpy().T


# stablehlo


def _prepare_stablehlo(plan: Plan) -> None:
    del plan
    _need("export", "flatbuffers")


def _write_stablehlo(plan: Plan, folder: Path) -> dict[str, Any]:
    from jaxcodec.export import stablehlo

    config = plan.release.config
    weights = {n: a for n, a in plan.weights.items() if not n.startswith("tables/")}
    save_file(weights, folder / WEIGHTS)
    _write_tables(plan, folder)
    made = {
        "encoder": stablehlo.export_encoder(config, weights, plan.num_streams),
        "decoder": stablehlo.export_decoder(config, weights),
    }
    for side, data in made.items():
        (folder / f"{side}.stablehlo").write_bytes(data)
    frames = config.grid // config.stride
    length = f"{frames} * cells"
    samples = f"{frames * config.stride} * cells - {config.hop}"
    layout = ("batch", config.max_streams, config.num_groups, length)
    present = programs.Tensor("present", ("batch", length), "float32")
    inputs = {
        "encoder": [
            programs.Tensor("waveform", ("batch", samples), "float32"),
            present,
        ],
        "decoder": [
            programs.Tensor("codes", layout, "int32"),
            programs.Tensor("num_streams", ("batch", length), "int32"),
            present,
        ],
    }
    codes = ("batch", plan.num_streams, config.num_groups, length)
    outputs = {
        "encoder": programs.Tensor("codes", codes, "int32"),
        "decoder": programs.Tensor("waveform", ("batch", samples), "float32"),
    }
    return _programs(plan, "stablehlo", "jax", inputs, outputs) | {
        "weights": WEIGHTS,
        "platforms": list(stablehlo.PLATFORMS),
    }


def _load_stablehlo(folder: Path) -> Candidate:
    from jaxcodec.export.stablehlo import StableHLO

    manifest = read_manifest(folder)
    encoder, decoder = (
        (folder / manifest[side]["file"]).read_bytes()
        for side in ("encoder", "decoder")
    )
    run = StableHLO(encoder, decoder, load_file(folder / manifest["weights"]))
    return Portable(manifest, read_tables(folder), run.encode, run.decode)


# onnx


def _prepare_onnx(plan: Plan) -> None:
    del plan
    _need("onnx", "jax2onnx", "onnxruntime")


def _write_onnx(plan: Plan, folder: Path) -> dict[str, Any]:
    from jaxcodec.export import onnx

    config = plan.release.config
    _write_tables(plan, folder)
    inputs, outputs = _fixed(plan, "batch")
    functions = {
        "encoder": programs.encoder(config, plan.num_streams),
        "decoder": programs.decoder(config),
    }
    weights = {n: a for n, a in plan.weights.items() if not n.startswith("tables/")}
    for side, function in functions.items():
        data = onnx.to_onnx(function, weights, inputs[side], outputs[side].name)
        (folder / f"{side}.onnx").write_bytes(data)
    return _programs(plan, "onnx", "onnxruntime", inputs, outputs) | {
        "opset": onnx.OPSET,
        "converter": f"jax2onnx {metadata.version('jax2onnx')}",
    }


def _load_onnx(folder: Path) -> Candidate:
    from jaxcodec.export import onnx_codec

    return onnx_codec.load(folder)


# tflite: static shapes, one recording at a time


def _prepare_tflite(plan: Plan) -> None:
    del plan
    _need("tflite", "tensorflow")


def _write_tflite(plan: Plan, folder: Path) -> dict[str, Any]:
    from jaxcodec.export import tflite

    config = plan.release.config
    _write_tables(plan, folder)
    inputs, outputs = _fixed(plan, 1)
    policy = Policy(erfc=True)  # what TensorFlow can read
    functions = {
        "encoder": programs.encoder(config, plan.num_streams, policy),
        "decoder": programs.decoder(config, policy),
    }
    weights = {n: a for n, a in plan.weights.items() if not n.startswith("tables/")}
    for side, function in functions.items():
        data = tflite.to_tflite(function, weights, inputs[side], plan.precision)
        (folder / f"{side}.tflite").write_bytes(data)
    about = _programs(plan, "tflite", "tensorflow-cpu", inputs, outputs)
    return about | {"converter": "jax2tf, then TensorFlow's"}


def _load_tflite(folder: Path) -> Candidate:
    from jaxcodec.export import tflite

    manifest = read_manifest(folder)
    run = {
        side: tflite.Program(
            folder / manifest[side]["file"],
            [entry["name"] for entry in manifest[side]["inputs"]],
        )
        for side in ("encoder", "decoder")
    }
    tables = read_tables(folder)
    return Portable(manifest, tables, run["encoder"], run["decoder"])


def _fixed(plan: Plan, batch: int | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and output of both programs for chunks of one shape."""
    config, shapes = plan.release.config, (plan.encoder_shape, plan.decoder_shape)
    inputs = {
        "encoder": programs.encoder_inputs(config, shapes[0], batch),
        "decoder": programs.decoder_inputs(config, shapes[1], batch),
    }
    codes = (batch, plan.num_streams, config.num_groups, shapes[0].total)
    samples = (batch, config.clip_samples(shapes[1].total))
    outputs = {
        "encoder": programs.Tensor("codes", codes, "int32"),
        "decoder": programs.Tensor("waveform", samples, "float32"),
    }
    return inputs, outputs


def _write_tables(plan: Plan, folder: Path) -> None:
    if (tables := plan.release.tables) is not None:
        np.save(folder / TABLES, tables.to_arrays()["frequencies"])


def _programs(
    plan: Plan, target: str, runtime: str, inputs: dict, outputs: dict
) -> dict[str, Any]:
    """The manifest's part that all targets with programs share."""
    shapes = {"encoder": plan.encoder_shape, "decoder": plan.decoder_shape}
    about: dict[str, Any] = {
        "target": target,
        "runtime": f"{runtime} {metadata.version(runtime)}",
    }
    for side, shape in shapes.items():
        about[side] = {
            "file": f"{side}.{target}",
            "chunk": dataclasses.asdict(shape),
            "inputs": [_described(entry) for entry in inputs[side]],
            "outputs": [_described(outputs[side])],
        }
    about["encoder"]["streams"] = plan.num_streams
    return about


def _described(entry: programs.Tensor) -> dict[str, Any]:
    return {"name": entry.name, "shape": list(entry.shape), "dtype": entry.dtype}


TARGETS = {
    "safetensors": Target(_write_safetensors, _load_safetensors, _anything, False),
    "torch": Target(_write_torch, _load_torch, _prepare_torch, False),
    "stablehlo": Target(_write_stablehlo, _load_stablehlo, _prepare_stablehlo, True),
    "onnx": Target(_write_onnx, _load_onnx, _prepare_onnx, True),
    "tflite": Target(
        _write_tflite, _load_tflite, _prepare_tflite, True, ("fp32", "fp16")
    ),
}
