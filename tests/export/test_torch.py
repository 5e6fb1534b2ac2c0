import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.export.torch import from_torch, to_torch
from jaxcodec.models.configs import ESCConfig, RVQCodecConfig
from jaxcodec.models.discriminators import DiscriminatorConfig, Discriminators
from jaxcodec.models.named import build

SMALL = {
    "channels": (8, 10, 12),  # uneven groups
    "heads": (2, 2),
    "max_streams": 3,
    "codebook_size": 16,
}
CONFIGS = {
    "esc_swin": ESCConfig(**SMALL, codebook_dims=(4, 4, 3)),
    "esc_conv": ESCConfig(**SMALL, codebook_dims=(4, 4, 3), backbone="conv", depth=1),
    "rvq_swin": RVQCodecConfig(**SMALL, codebook_dim=4),
    "rvq_conv": RVQCodecConfig(**SMALL, codebook_dim=4, backbone="conv", depth=2),
}
DISCRIMINATORS = DiscriminatorConfig(
    periods=(2, 3),
    period_channels=(4, 5),
    windows=(32, 16),
    band_edges=(0, 0.5, 1),
    band_channels=3,
)


def numbered(model, num_samples):
    """Shapes of a model's variables, and variables whose every number is another."""
    silence = jax.ShapeDtypeStruct((1, num_samples), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), silence)
    leaves, tree = jax.tree.flatten(shapes)
    total = np.cumsum([0] + [leaf.size for leaf in leaves])
    variables = [
        np.arange(start, start + leaf.size, dtype=np.float32).reshape(leaf.shape)
        for start, leaf in zip(total, leaves, strict=False)
    ]
    return shapes, jax.tree.unflatten(tree, variables)


@pytest.fixture(scope="module", params=CONFIGS)
def exported(request):
    """Variables of all kinds of codecs, and their tensors."""
    config = CONFIGS[request.param]
    shapes, variables = numbered(build(config), config.clip_samples(4))
    return config, shapes, variables, to_torch(variables, config)


def test_there_and_back(exported):
    config, shapes, variables, tensors = exported
    back = from_torch(tensors, shapes, config)
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    again = to_torch(back, config)
    assert set(again) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor)


def test_every_number_is_there_once(exported):
    _, _, variables, tensors = exported
    numbers = np.concatenate([tensor.ravel() for tensor in tensors.values()])
    ours = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(variables)])
    np.testing.assert_array_equal(np.sort(numbers), np.sort(ours))


def test_constants_of_the_reference_are_ignored(exported):
    config, shapes, _, tensors = exported
    constants = {
        "ft.window": np.ones(320),
        "ift.window": np.ones(320),
        "encoder.blocks.0.attn.relative_position_index": np.zeros((16, 16)),
        "decoder.blocks.0.blocks.2.num_batches_tracked": np.array(3),
    }
    from_torch({**tensors, **constants}, shapes, config)


def test_what_is_missing_or_left_over_is_named(exported):
    config, shapes, _, tensors = exported
    name = "decoder.patch_deembed.de_proj2.bias"
    without = {n: tensor for n, tensor in tensors.items() if n != name}
    with pytest.raises(ValueError, match=rf"missing \['{name}'\]; left over \[\]"):
        from_torch(without, shapes, config)
    more = {**tensors, "discriminator.weight": np.zeros(3)}
    with pytest.raises(ValueError, match=r"missing \[\]; left over \['discriminator"):
        from_torch(more, shapes, config)


def test_wrong_shapes(exported):
    config, shapes, _, tensors = exported
    name = "decoder.patch_deembed.de_proj2.weight"
    wrong = {**tensors, name: tensors[name][:, :-1]}
    message = r"de_proj2.weight has shape \(2, 7, 3, 3\), .* not make .* \(3, 3, 8, 2\)"
    with pytest.raises(ValueError, match=message):
        from_torch(wrong, shapes, config)


def test_a_group_of_another_width(exported):
    """Parts that are stacked: one of them wrong must be noticed, and named."""
    config, shapes, _, tensors = exported
    name = next(n for n in tensors if n.endswith(("vqs.0.embedding.weight",)))
    wrong = {**tensors, name: tensors[name][:-1]}
    with pytest.raises(ValueError, match=name):
        from_torch(wrong, shapes, config)


def test_unknown_parameters():
    variables = {"params": {"encoder": {"mystery": {"kernel": np.zeros(3)}}}}
    with pytest.raises(
        ValueError, match="no rule for parameter encoder/mystery/kernel"
    ):
        to_torch(variables, CONFIGS["esc_swin"])


def test_discriminators():
    model = Discriminators(DISCRIMINATORS)
    shapes, variables = numbered(model, DISCRIMINATORS.enough_samples)
    tensors = to_torch(variables, DISCRIMINATORS)
    kernels = {name: tensors[name].shape for name in tensors if "weight_v" in name}
    assert kernels["discriminators.1.convs.1.0.weight_v"] == (5, 4, 5, 1)
    assert kernels["discriminators.3.band_convs.1.0.0.weight_v"] == (3, 2, 3, 9)
    assert kernels["discriminators.3.conv_post.weight_v"] == (1, 3, 3, 3)
    assert tensors["discriminators.2.conv_post.weight_g"].shape == (1, 1, 1, 1)
    back = from_torch(tensors, shapes, DISCRIMINATORS)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    numbers = np.concatenate([tensor.ravel() for tensor in tensors.values()])
    np.testing.assert_array_equal(np.sort(numbers), np.arange(numbers.size))

    name = "discriminators.3.conv_post.weight_g"
    without = {n: tensor for n, tensor in tensors.items() if n != name}
    more = {"discriminators.4.conv_post.bias": np.zeros(1)}
    message = rf"missing \['{name}'\]; left over \['discriminators.4.conv_post.bias'\]"
    with pytest.raises(ValueError, match=message):
        from_torch({**without, **more}, shapes, DISCRIMINATORS)
    wrong = {**tensors, name: np.zeros((2, 1, 1, 1))}
    with pytest.raises(ValueError, match=r"weight_g has shape \(2, 1, 1, 1\)"):
        from_torch(wrong, shapes, DISCRIMINATORS)
    unknown = {"params": {"period_0": {"conv_0": {"kernel": np.zeros(3)}}}}
    with pytest.raises(ValueError, match="no rule for parameter period_0/conv_0/ker"):
        to_torch(unknown, DISCRIMINATORS)
