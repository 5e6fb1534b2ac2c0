import json
import os
import subprocess
import sys
from pathlib import Path

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


def _in_a_process(*command, **environment):
    """JSON printed by a process that has not started JAX yet."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
        "PYTHONPATH": str(Path(__file__).parents[1]),
        **environment,
    }
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_devices_with_their_own_examples_compute_the_same():
    """The kernel of a GPU, and a step of a codec with statistics of the batch."""
    found = _in_a_process("-m", "tests.shares_worker")
    assert found["devices"] == 2
    assert found["fused"] < 1e-5
    assert found["step"] < 1e-5


SHARED = """
import json, sys
import jax
from jaxcodec import parallel

found = []
for rows, cores in json.loads(sys.argv[1]):
    parallel.usable_cores = lambda cores=cores: cores
    parallel.share_cores(rows)
    found.append(jax.config.values["jax_num_cpu_devices"])
    jax.config.update("jax_num_cpu_devices", -1)
parallel.share_cores(12, 3)
try:
    parallel.share_cores(12, 5)
except ValueError as error:
    found.append(str(error))
parallel.share_cores(4)  # was told 3
found.append(jax.device_count())
print(json.dumps(found))
"""


def test_a_cpu_is_as_many_devices_as_share_a_batch():
    cases = [(4, 1), (4, 2), (36, 8), (36, 64), (7, 4), (16, 64)]
    *chosen, message, started = _in_a_process("-c", SHARED, json.dumps(cases))
    assert chosen == [1, 2, 6, 6, 1, 8]
    assert message.startswith("12 examples cannot be shared evenly among 5 devices")
    assert started == 3


def test_a_number_of_devices_that_a_user_chose_is_kept():
    script = (
        "import jax; from jaxcodec import parallel; parallel.share_cores(8);"
        "print(jax.device_count())"
    )
    assert _in_a_process("-c", script, JAX_NUM_CPU_DEVICES="4") == 4
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    assert _in_a_process("-c", script, XLA_FLAGS=flags) == 4


def test_a_process_in_which_jax_has_started_keeps_its_devices():
    script = (
        "import jax; from jaxcodec import parallel; parallel.usable_cores = lambda: 4;"
        "jax.devices(); parallel.share_cores(8); print(jax.device_count())"
    )
    assert _in_a_process("-c", script) == 1
