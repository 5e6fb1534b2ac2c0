import jax
import jax.numpy as jnp
import pytest

from jaxcodec.modules.lane_attention import LONGEST, attend_by_heads


@pytest.mark.parametrize("depth", [5, LONGEST + 8, 19])
def test_sums_in_parts_are_the_same(features, close, same_with_gradients, depth):
    """Heads deeper than what is summed at once, and gradients with them."""
    heads, tokens, windows = 2, 4, 3
    qkv = features(3, heads, depth, tokens, windows)
    bias = features(heads, tokens, tokens)
    penalty = -jnp.abs(features(tokens, tokens, windows))

    offset = features(3, heads, depth)

    def plain(qkv, bias, offset):
        query, key, value = qkv + offset[..., None, None]
        scores = jnp.einsum("hdqn,hdkn->hqkn", query, key) * depth**-0.5
        weights = jax.nn.softmax(scores + bias[..., None] + penalty, axis=2)
        return jnp.einsum("hqkn,hdkn->hdqn", weights, value)

    def ours(qkv, bias, offset):
        over = jnp.full_like(qkv[0], jnp.nan)  # nothing of it is left
        return attend_by_heads(qkv, bias, penalty, None, 2, offset, over)

    close(ours(qkv, bias, offset), plain(qkv, bias, offset), 1e-5)
    same_with_gradients(ours, plain, qkv, bias, offset)
    nothing = jnp.zeros_like(offset)
    close(attend_by_heads(qkv, bias, penalty, None, 2), plain(qkv, bias, nothing), 1e-5)
