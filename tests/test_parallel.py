import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from jaxcodec import parallel


def test_rules_find_what_an_optimizer_keeps():
    mesh = AbstractMesh((8,), ("data",), axis_types=(AxisType.Auto,))
    vector = jax.ShapeDtypeStruct((4096,), np.float32)
    tree = {
        "params": {"mu": vector, "kernel": vector},
        "opt_state": {"inner": {"mu": vector, "nu": vector, "count": vector}},
        "adversary": {"opt_state": {"average": vector}},
    }
    found = parallel.tree_shardings(tree, mesh, parallel.SHARDED_OPTIMIZER)
    divided = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, sharding in jax.tree_util.tree_leaves_with_path(found)
        if sharding.spec == PartitionSpec("data")
    ]
    assert divided == [
        "adversary/opt_state/average",
        "opt_state/inner/mu",
        "opt_state/inner/nu",
    ]


@pytest.mark.parametrize(
    "rules, message",
    [
        ((("b", PartitionSpec()),), "no sharding rule matches 'a': add one"),
        ((("a", PartitionSpec("data")),), "a has 6 entries, which 4 devices cannot"),
    ],
)
def test_bad_rules_are_refused(rules, message):
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match=message):
        parallel.tree_shardings({"a": jnp.zeros(6)}, mesh, rules)


def test_keys_and_arrays_are_placed():
    mesh = parallel.data_mesh()
    tree = {"key": jax.random.key(3), "array": np.arange(3.0)}
    same = jax.tree.map(lambda _: parallel.replicated(mesh), tree)
    placed = parallel.place(tree, same)
    assert jax.random.key_data(placed["key"]).tolist() == [0, 3]
    np.testing.assert_array_equal(placed["array"], tree["array"])
    assert placed["array"].sharding == parallel.replicated(mesh)
