"""The PyTorch twin against recordings of the published code, and against ours."""

import ast
import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import jaxcodec
from jaxcodec import pretrained
from jaxcodec.export import bundle
from jaxcodec.export.torch import from_torch
from jaxcodec.export.weights import flat_tensors, load_release, save_release
from jaxcodec.inference.codec import Codec
from jaxcodec.models.configs import ESCConfig
from jaxcodec.models.named import build, config_to_dict
from tests.micro import MICRO, drawn

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from jaxcodec.export import torch_twin  # noqa: E402

RECORDED = ESCConfig(
    channels=(16, 16, 24, 24, 32, 64),
    heads=(2, 4, 3, 4, 8),
    codebook_size=64,
    codebook_dims=(8, 8, 6, 6, 4, 4),
)
SHORT = dataclasses.replace(  # two scales: quick to differentiate
    MICRO,
    channels=(6, 8),
    heads=(2,),
    depth=1,
    max_streams=2,
    codebook_dims=(4, 4),
)


def test_recordings(tmp_path, load_reference, draw_weights, close, same_codes):
    recorded = load_reference("tiny_csvq_swinT")
    silence = jax.ShapeDtypeStruct((1, RECORDED.clip_samples(7)), jnp.float32)
    shapes = jax.eval_shape(build(RECORDED).init, jax.random.key(0), silence)
    weights = draw_weights("tiny_csvq_swinT", recorded["state"])
    loaded = from_torch(weights, shapes, RECORDED)
    save_release(tmp_path, "recorded", RECORDED, loaded, None)
    twin = torch_twin.load(tmp_path)
    waveform = torch.from_numpy(recorded["short/x"])
    margin = recorded["short/vq_margin_eval"]
    for streams in (1, 4, 6):
        with torch.no_grad():
            made = twin(waveform, streams)
        close(made.waveform, recorded[f"short/recon_audio_s{streams}"])
        for ours, theirs in (
            ("commitment_loss", "cm_loss"),
            ("codebook_loss", "cb_loss"),
        ):
            expected = recorded[f"short/eval_{theirs}"][streams - 1]
            close(getattr(made, ours), expected, of=theirs)
    same_codes(made.codes, recorded["short/codes_s6"], margin)
    for stream, latents in enumerate(made.latents):
        close(latents, recorded[f"short/vq_in_s{stream}"])
    with torch.no_grad():
        made = twin(waveform, 6, bypass=True)
    close(made.waveform, recorded["short/freeze/recon_audio"], of="bypass")
    assert made.codebook_loss.abs().max() == made.commitment_loss.abs().max() == 0


def test_gradients(tmp_path, close):
    """Straight through the codebooks, for another number of streams per example."""
    made = drawn(SHORT)
    save_release(tmp_path, "short", SHORT, made, None)
    twin = torch_twin.load(tmp_path)
    waveform = np.random.default_rng(0).normal(size=(2, SHORT.clip_samples(5)))
    waveform = (0.3 * waveform).astype(np.float32)
    streams = np.array([1, 2])

    def total(out):
        losses = out.codebook_loss + 0.25 * out.commitment_loss
        return losses.sum() + ((out.waveform - 0.1) ** 2).sum()

    def ours(params, waveform, streams):
        return total(build(SHORT).apply({"params": params}, waveform, streams))

    expected = jax.jit(jax.grad(ours))(
        made["params"], jnp.asarray(waveform), jnp.asarray(streams)
    )
    total(twin(torch.from_numpy(waveform), torch.from_numpy(streams))).backward()
    named = dict(twin.named_parameters())
    seen = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        name = ".".join(key.key for key in path)
        own, gradient = torch_twin._to_torch(name, torch.from_numpy(np.array(leaf)))
        theirs = named[own].grad
        theirs = torch.zeros_like(named[own]) if theirs is None else theirs
        if gradient.abs().max() > 0:
            close(theirs, gradient, 1e-3, of=name)
        else:
            assert theirs.abs().max() == 0, name
        seen.add(own)
    assert seen == set(named)


def test_real_speech(close):
    codec = jaxcodec.load()
    twin = torch_twin.load(pretrained.find(None))
    waveform, rate = soundfile.read(
        pretrained.FOLDER.parents[1] / "tests/samples/speech.flac", dtype="float32"
    )
    for part in (waveform[:40_001], waveform[9_000:9_007]):
        coded = codec.encode(part, rate)
        codes = twin.encode(torch.from_numpy(part[None]))
        np.testing.assert_array_equal(coded.codes, codes)
        for streams in (6, 2):
            prefix = codec.encode(part, rate, num_streams=streams)
            decoded = twin.decode(codes[:, :streams], len(part))
            close(decoded[0], codec.decode(prefix))


def test_small_weights_in_a_folder(tmp_path):
    """int8 and its scales, as PyTorch and as JAX read them."""
    weights = drawn()
    save_release(tmp_path / "in", "micro", MICRO, weights, None)
    report = bundle.export_model(
        load_release(tmp_path / "in"),
        "torch",
        tmp_path / "out",
        precision="int8",
        chunk_codes=32,
    )
    assert report["faults"] == []
    again = load_release(tmp_path / "out")
    twin = torch_twin.load(tmp_path / "out")
    for name, tensor in twin.named_parameters():
        if name.endswith(("codebook", "down", "up", "position_table")):
            path = f"params/{name.replace('.', '/')}"
            expected = flat_tensors(again.variables, None)[path]
            np.testing.assert_array_equal(tensor.detach(), expected, name)
    codec = Codec("micro", MICRO, again.variables, None, bytes(8), chunk_codes=32)
    waveform = 0.2 * np.random.default_rng(0).normal(size=1_200).astype(np.float32)
    codes = twin.encode(torch.from_numpy(waveform[None]))
    np.testing.assert_array_equal(codec.encode(waveform, 2_000).codes, codes)


def test_the_file_stands_alone():
    """It is sent to people who have nothing else of ours."""
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(Path(torch_twin.__file__).read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - sys.stdlib_module_names == {"torch", "safetensors"}


def test_other_models_are_refused(tmp_path):
    config = config_to_dict(ESCConfig(backbone="conv", depth=1))
    with pytest.raises(ValueError, match=r"'esc' with backbone 'conv', but .* 'swin'"):
        torch_twin.ESC(config)
    twin = torch_twin.ESC(config_to_dict(MICRO))
    with pytest.raises(ValueError, match=r"tensors are missing, such as decoder\.deem"):
        twin.load_tensors({})
    made = drawn()
    tensors = {
        name: torch.from_numpy(array.copy())
        for name, array in flat_tensors(made, None).items()
    }
    with pytest.raises(ValueError, match="1 tensors are left over, such as mystery"):
        twin.load_tensors({**tensors, "params/mystery": torch.zeros(1)})
    name = "params/quantizer_1/codebook"
    with pytest.raises(ValueError, match=r"another shape, such as quantizer_1\.code"):
        twin.load_tensors({**tensors, name: tensors[name][:, :-1]})
    with pytest.raises(ValueError, match="num_streams is 4: this codec has 1 to 3"):
        twin.encode(torch.zeros(1, 100), 4)
