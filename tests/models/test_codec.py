"""What every codec has in common: the config's rates, and the contract of a codec."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.models.configs import CodecConfig, ESCConfig


@pytest.fixture(scope="module")
def coded(small):
    waveform = jnp.asarray(small.arrays["x"])
    return waveform, small.encode_each(waveform)


def changed(codes, where, size):
    return jnp.where(where, (codes + 1) % size, codes)


def test_fewer_streams_are_a_prefix(small, coded):
    _, each = coded
    assert list(each) == [1, 2, 3]
    for k, codes in each.items():
        assert codes.shape == (2, k, 3, 7)
        np.testing.assert_array_equal(codes, each[3][:, :k])


def test_decoding_gives_the_forward_pass(small, coded, close):
    waveform, each = coded
    for k in range(small.config.max_streams):
        made = small.forward(waveform, jnp.full(2, k + 1))  # as below: one program
        np.testing.assert_array_equal(made.codes[:, : k + 1], each[k + 1])
        counts = jnp.full((2, 7), k + 1)
        close(small.decode(each[3], counts, None), made.waveform, 1e-5)
    close(small.decode(each[3], None, None), made.waveform, 1e-5)


def test_streams_of_each_example(small, coded, close):
    """One count per example gives each the pass with that count alone."""
    waveform, _ = coded
    made = small.forward(waveform, jnp.asarray([1, 3]))
    for i, streams in enumerate((1, 3)):
        alone = small.forward(waveform, jnp.full(2, streams))
        for name in ("waveform", "codebook_loss", "commitment_loss"):
            close(getattr(made, name)[i], getattr(alone, name)[i], 1e-6, of=name)
    # streams that are not used cost nothing
    fewer = small.forward(waveform, jnp.full(2, 1))
    assert np.all(fewer.codebook_loss < alone.codebook_loss)


def test_streams_of_each_frame(small, coded, close):
    """Codes behind a frame's count are not read, the last one before it is."""
    codes, size = coded[1][3], small.config.codebook_size
    counts = np.array([[1, 3, 3, 2, 0, 2, 3], [3, 3, 1, 1, 2, 3, 0]])
    stream = np.arange(3)[None, :, None, None]
    behind = stream >= counts[:, None, None, :]
    last = stream == counts[:, None, None, :] - 1
    counts = jnp.asarray(counts)
    decoded = small.decode(codes, counts, None)
    close(small.decode(changed(codes, behind, size), counts, None), decoded, 1e-7)
    other = small.decode(changed(codes, last, size), counts, None)
    assert np.abs(np.asarray(other - decoded)).max() > 1e-3


def test_absent_codes_leave_no_trace(small, close):
    """Four code frames (whole windows) exist in a clip of seven."""
    config = small.config
    waveform = small.arrays["x"]
    num_samples, half = config.clip_samples(4), config.window // 2
    cut = waveform[:, :num_samples]
    present = jnp.broadcast_to(jnp.arange(7) < 4, (2, 7)).astype(jnp.float32)
    # the last frames reach half a window beyond the cut, where an edge is mirrored
    mirrored = cut[:, -half - 1 : -1][:, ::-1]
    rest = waveform[:, num_samples + half :]
    full = np.concatenate([cut, mirrored, rest], axis=1)
    loud = np.concatenate([cut, mirrored, 0.5 - rest], axis=1)
    codes = small.encode(jnp.asarray(full), present)
    again = small.encode(jnp.asarray(loud), present)
    np.testing.assert_array_equal(again[..., :4], codes[..., :4])
    alone = small.encode(jnp.asarray(cut), None)
    np.testing.assert_array_equal(codes[..., :4], alone)

    decoded = small.decode(codes, None, present)
    other = changed(codes, np.arange(7) >= 4, config.codebook_size)
    close(small.decode(other, None, present), decoded, 1e-7)
    alone = small.decode(alone, None, None)
    close(decoded[:, : alone.shape[1]], alone, 1e-5)


@pytest.mark.parametrize("streams", [0, 4])
def test_wrong_number_of_streams(small, streams):
    waveform = jnp.asarray(small.arrays["x"])
    with pytest.raises(ValueError, match=f"num_streams is {streams}.* 1 to 3 streams"):
        small.codec.apply(small.variables, waveform, streams, method="encode")


def test_bitrates():
    config = ESCConfig()
    assert config.bitrates == (1500, 3000, 4500, 6000, 7500, 9000)
    assert [config.num_streams(rate) for rate in config.bitrates] == [1, 2, 3, 4, 5, 6]
    assert config.num_streams(8999) == 5
    assert ESCConfig(codebook_size=256).bitrate(6) == 7200


@pytest.mark.parametrize("bitrate", [1000, 9600])
def test_bitrates_that_are_not_offered(bitrate):
    expected = f"bitrate {bitrate} bit/s is not offered: choose one of 1500, .*, 9000"
    with pytest.raises(ValueError, match=expected):
        ESCConfig().num_streams(bitrate)


def test_stride_is_left_to_the_codec():
    with pytest.raises(NotImplementedError):
        _ = CodecConfig().stride
