"""The house rules that only the source shows: who imports whom, and who prints."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxcodec

PACKAGE = Path(jaxcodec.__file__).parent
# a module may import from lines above its own, and from its own package
LAYERS = (
    {"arrays", "runtime"},
    {"dsp", "bitstream"},
    {"modules", "quantizers", "losses", "metrics", "optim"},
    {"models", "data", "parallel"},
    {"experiment", "inference"},
    {"export", "baselines"},
    {"train", "pretrained", "terminal"},
    {"evaluate", "jobs"},
    {"report"},
    {"commands"},
    {"sweep", "cli"},
    {"__main__"},
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
# siblings on one line, each with its reason
ALLOWED = {
    # a distance that is trained on and reported is written once
    ("metrics.signal", "losses.reconstruction"),
    ("metrics.host", "losses.reconstruction"),
    # parameters of all parts of a model are declared in one way
    ("quantizers.product", "modules.parameters"),
    ("quantizers.residual", "modules.parameters"),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(path: Path) -> set[str]:
    """Names of everything a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively: name the package"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def faults(name: str, imports: set[str]) -> list[str]:
    """What a module of the package imports against the rules."""
    if not name:  # the package itself gathers public names
        return []
    own = name.partition(".")[0]
    if own not in LEVEL:
        return [f"{own} has no place in the layers: give it one"]
    wrong = []
    for module in imports:
        ours = module.removeprefix("jaxcodec.")
        if ours == module or not is_module(ours):
            continue
        other = ours.partition(".")[0]
        if other == own or LEVEL[other] < LEVEL[own] or (name, ours) in ALLOWED:
            continue
        # `from jaxcodec.losses import reconstruction` names the package too
        if any((name, f"{ours}.{rest}") in ALLOWED for rest in _below(ours, imports)):
            continue
        wrong.append(f"{name} imports {ours}")
    return wrong


def _below(package: str, imports: set[str]) -> list[str]:
    prefix = f"jaxcodec.{package}."
    return [
        module.removeprefix(prefix) for module in imports if module.startswith(prefix)
    ]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path):
    assert faults(name_of(path), imported(path)) == []


def test_the_rule_has_teeth():
    assert faults("losses.reconstruction", {"jaxcodec.models.esc"})
    assert faults("losses.reconstruction", {"jaxcodec.metrics.signal"})
    assert faults("metrics.codes", {"jaxcodec.losses.reconstruction"})
    assert faults("quantizers.product", {"jaxcodec.modules.conv"})
    assert faults("nowhere", set())
    assert not faults("models.esc", {"jaxcodec.models.codec", "jaxcodec.arrays", "jax"})


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "bitstream").glob("*.py")), ids=name_of
)
def test_bitstream_needs_no_jax(path):
    heavy = {"jax", "jaxlib", "flax", "optax"}
    assert not {module.partition(".")[0] for module in imported(path)} & heavy


@pytest.mark.parametrize("module", ["jaxcodec", "jaxcodec.bitstream", "jaxcodec.cli"])
def test_starts_without_jax(module):
    """Help, version and `info` answer at once, and bytes decode without JAX."""
    code = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, timeout=60
    )


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_cli_prints(path):
    calls = [
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)
    ]
    prints = [call.lineno for call in calls if getattr(call.func, "id", "") == "print"]
    assert name_of(path) == "cli" or not prints, f"{path} prints in lines {prints}"
