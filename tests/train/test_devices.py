"""Any number of devices and processes train the same model."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent


def _start(devices, *arguments):
    flags = os.environ["XLA_FLAGS"]
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.train.devices_worker", *arguments]
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def _finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    _finish(_start(8, "one", str(folder)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    _finish(*(_start(2, "many", str(folder), address, str(i)) for i in range(2)))

    def load(name):
        with np.load(folder / f"{name}.npz") as arrays:
            return dict(arrays)

    return folder, load


@pytest.mark.parametrize(
    "name", ["eight", "eight_to_1", "two_by_two", "eight_to_two_by_two"]
)
def test_the_devices_make_no_difference(runs, name):
    """Losses and parameters of 14 steps of plain gradient descent.

    k-means and revival are included, and discriminators from the fifth step on.
    """
    _, load = runs
    expected, actual = load("one"), load(name)
    assert expected.keys() == actual.keys()
    assert len(actual["loss"]) == 14
    assert actual["loss"][-1] < 0.97 * actual["loss"][4]
    played = actual["discriminator"]
    assert not played[:4].any() and 0 < played[-1] < 0.9 * played[4]
    for key in expected:
        if key != "opt_state_axes":
            np.testing.assert_allclose(
                actual[key], expected[key], rtol=2e-3, atol=1e-5, err_msg=key
            )


def test_the_optimizer_is_divided_where_asked(runs):
    _, load = runs
    assert load("one")["opt_state_axes"].tolist() == [0]
    assert load("eight")["opt_state_axes"].tolist() == [1]


def test_only_gradients_travel_between_devices(runs):
    """A batch or a vector that is torn apart would show as gathers and permutes.

    One gather brings the updates of the divided optimizer to all devices.
    """
    folder, _ = runs
    counts = json.loads((folder / "collectives.json").read_text())
    assert 1 <= counts.pop("all-reduce") <= 4
    assert counts == {"all-gather": 1}
