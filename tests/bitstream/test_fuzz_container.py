"""Hostile input, through `tools/fuzz_container.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command):
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )


def test_twenty_thousand_mutations():
    """In a process of its own, since the limit on memory holds for a whole process."""
    result = run(ROOT / "tools/fuzz_container.py", "--count", "20000", "--seed", "0")
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout)
    assert report["cases"] == 20_000
    # The mutations reach what lies behind the checksums.
    assert report["clean"] > 500
    assert report["damaged"] > 5_000
    assert report["refused"] > 3_000


def test_works_without_jax():
    """Jax is an import error here, as where it is not installed."""
    code = (
        "import sys; sys.modules.update(jax=None, jaxlib=None, flax=None);"
        "import jaxcodec.bitstream; print(sorted(jaxcodec.bitstream.__all__)[:1])"
    )
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    assert "Chunk" in result.stdout
