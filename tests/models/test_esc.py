import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.export.torch import to_torch
from jaxcodec.metrics.signal import mel_distance, si_sdr
from jaxcodec.models.configs import ESCConfig
from jaxcodec.models.named import NAMED


@pytest.fixture(scope="module")
def base(recorded, forget_programs):
    yield recorded("base_csvq_swinT", NAMED["esc_base"])
    forget_programs()


@pytest.fixture(scope="module")
def mixed(recorded):
    return recorded("base_mixed_csvq_swinT", NAMED["esc_base_mixed"])


def check_outputs(model, close, same_codes):
    """Audio and codes for every recorded number of streams, and what was searched."""
    waveform = jnp.asarray(model.arrays["x"])
    expected, margin = model.arrays["codes_s6"], model.arrays["vq_margin"]
    for k in range(6):
        made, _ = model.states(waveform, k + 1)
        same_codes(made.codes[:, : k + 1], expected[:, : k + 1], margin)
        audio = model.arrays.get(f"recon_audio_s{k + 1}")
        if audio is not None:
            close(made.waveform, audio, of=f"{k + 1} streams")
        close(si_sdr(waveform, made.waveform), model.arrays["si_sdr"][k], of="si_sdr")
    close(mel_distance(waveform, made.waveform), model.arrays["mel_distance"][5])
    for stream, latents in enumerate(made.latents):
        close(latents, model.arrays[f"vq_in_s{stream}"], of=f"stream {stream}")


def test_base(base, close, same_codes):
    check_outputs(base, close, same_codes)


def test_base_with_mixed_codebook_dims(mixed, close, same_codes):
    check_outputs(mixed, close, same_codes)


def test_base_encoder_states(base, close):
    _, kept = base.states(jnp.asarray(base.arrays["x"]), 6)
    (states,) = kept["encoder"]["__call__"]
    for i, state in enumerate(states):
        flat = np.asarray(state, np.float64).ravel()
        stats = flat.mean(), flat.std(ddof=1), np.linalg.norm(flat), np.abs(flat).max()
        expected = base.arrays[f"enc_h{i}_stats"]
        np.testing.assert_allclose(stats, expected, rtol=1e-4, atol=1e-5, err_msg=i)
    close(states[5][:, :, :40], base.arrays["enc_h5"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bypass"), [("train_s6", False), ("freeze", True)])
def test_base_training_pass(base, name, bypass, forget_programs, close):
    if name == "train_s6":
        forget_programs()  # of the passes in eval mode: this one is large
    waveform = jnp.asarray(base.arrays["x"])
    _, losses, _, gradient = base.train(waveform, 6, bypass, 0.0)
    losses["total_loss"] += losses["stft_loss"]  # its weight in the recording is 1
    for loss in ("mel_loss", "stft_loss", "cm_loss", "cb_loss", "total_loss"):
        expected = base.arrays[f"{name}/{loss}"]
        if expected.any():
            close(losses[loss], expected, of=loss)
        else:
            assert not np.asarray(losses[loss]).any()
    tensors = to_torch({"params": gradient}, base.config)
    names = base.arrays["param_names"]
    norms = np.array([np.linalg.norm(tensors[n].astype(np.float64)) for n in names])
    expected = base.arrays[f"{name}/grad_norm_no_stft_f64"]
    unused = np.isnan(expected)
    assert not norms[unused].any()
    error = np.where(unused, 0, np.abs(norms - expected)) / np.nanmax(expected)
    assert error.max() <= 6e-4, names[error.argmax()]


@pytest.mark.parametrize(
    ("name", "streams"),
    [
        ("len2239", 3),
        pytest.param("len2200", 6, marks=pytest.mark.slow),
        pytest.param("len2480", 6, marks=pytest.mark.slow),
    ],
)
def test_odd_lengths(tiny_esc, load_reference, name, streams, close, same_codes):
    cases = load_reference("odd_cases")
    made = tiny_esc.forward(jnp.asarray(cases[f"{name}/x"]), streams)
    codes, margin = cases[f"{name}/codes_s{streams}"], cases[f"{name}/vq_margin"]
    same_codes(made.codes[:, :streams], codes, margin)
    close(made.waveform, cases[f"{name}/recon_audio_s{streams}"])


def test_silence(tiny_esc, load_reference, close, same_codes):
    cases = load_reference("odd_cases")
    twice = jnp.tile(jnp.asarray(cases["silence/x"]), (2, 1))  # a compiled shape
    made, _ = tiny_esc.states(twice, 6)
    same_codes(made.codes[:1], cases["silence/codes_s6"], cases["silence/vq_margin"])
    close(made.waveform[:1], cases["silence/recon_audio_s6"])


def test_encoder_reach(tiny_esc, close):
    """Codes of a grid cell read no samples beyond the reach that the config states."""
    config = tiny_esc.config
    waveform = tiny_esc.arrays["long/x"]
    before, after = config.encoder_reach()
    start = waveform.shape[1] // 2 // config.grid * config.grid
    low, high = start - before, start + config.grid + after
    assert low > 0 and high < waveform.shape[1]
    other = waveform[:, ::-1].copy()
    other[:, low:high] = waveform[:, low:high]
    cell = slice(start // config.stride, (start + config.grid) // config.stride)
    made, again = (tiny_esc.forward(jnp.asarray(x), 6) for x in (waveform, other))
    for ours, theirs in zip(made.latents, again.latents, strict=True):
        close(theirs[:, :, cell], ours[:, :, cell], 1e-5)
    assert np.any(made.codes != again.codes)


def test_config_errors():
    with pytest.raises(ValueError, match="5 codebook_dims for 6 streams"):
        ESCConfig(codebook_dims=(8,) * 5)
    with pytest.raises(ValueError, match="max_streams is 7, but 6 scales"):
        ESCConfig(max_streams=7, codebook_dims=(8,) * 7)


def test_streams_and_scales():
    config = ESCConfig()
    assert [config.stream_scale(k) for k in range(6)] == [5, 5, 4, 3, 2, 1]
    assert config.feedback_stages == 4
    assert ESCConfig(max_streams=1, codebook_dims=(8,)).feedback_stages == 0
