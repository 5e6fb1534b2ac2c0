"""The PyTorch twin against recordings of the published code, and against ours."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import jaxcodec
from jaxcodec import pretrained
from jaxcodec.export.torch import from_torch
from jaxcodec.export.weights import save_release
from jaxcodec.models.esc import ESCConfig
from jaxcodec.models.named import build, config_to_dict
from tests.micro import MICRO, variables

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


def test_gradients(tmp_path, close):
    """Straight through the codebooks, for another number of streams per example."""
    made = jax.tree.map(np.asarray, variables(SHORT))
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


def test_other_models_are_refused(tmp_path):
    config = config_to_dict(ESCConfig(backbone="conv", depth=1))
    with pytest.raises(ValueError, match=r"'esc' with backbone 'conv', but .* 'swin'"):
        torch_twin.ESC(config)
    twin = torch_twin.ESC(config_to_dict(MICRO))
    with pytest.raises(ValueError, match=r"tensors are missing, such as decoder\.deem"):
        twin.load_tensors({})
    with pytest.raises(ValueError, match="num_streams is 4: this codec has 1 to 3"):
        twin.encode(torch.zeros(1, 100), 4)
