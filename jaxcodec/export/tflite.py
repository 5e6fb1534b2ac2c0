"""TFLite through jax2tf and TensorFlow's converter, in an environment of its own.

Shapes are static: one chunk of one channel per call. TensorFlow is large and holds
other packages back, so nothing else here needs it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.export.programs import Tensor

__all__ = ["Program", "to_tflite"]


def to_tflite(
    function: Callable[..., jax.Array],
    weights: dict[str, Any],
    inputs: Sequence[Tensor],
    precision: str,
) -> bytes:
    """Converts `(weights, *inputs) -> output` to a model that contains the weights.

    Args:
        function: see `export.programs`.
        weights: flat, in any precision.
        inputs: of fixed shapes.
        precision: "fp16" stores constants as 16 bits, by TensorFlow's own means.

    Raises:
        ModuleNotFoundError: TensorFlow is not installed.
    """
    import tensorflow as tf
    from jax.experimental import jax2tf

    held = jax.tree.map(jnp.asarray, weights)

    def closed(*arrays):
        return function(held, *arrays)

    graph = tf.function(
        jax2tf.convert(closed, with_gradient=False),
        input_signature=[
            tf.TensorSpec(entry.shape, entry.dtype, entry.name) for entry in inputs
        ],
        autograph=False,
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [graph.get_concrete_function()], graph
    )
    if precision == "fp16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


class Program:
    """One model file, run row by row."""

    def __init__(self, path: Path, names: Sequence[str]):
        import tensorflow as tf

        self._interpreter = tf.lite.Interpreter(str(path))
        self._interpreter.allocate_tensors()
        found = {
            entry["name"].partition(":")[0].removeprefix("serving_default_"): entry
            for entry in self._interpreter.get_input_details()
        }
        self._inputs = [found[name]["index"] for name in names]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        rows = []
        for row in zip(*arrays, strict=True):
            for index, array in zip(self._inputs, row, strict=True):
                self._interpreter.set_tensor(index, array[None])
            self._interpreter.invoke()
            rows.append(self._interpreter.get_tensor(self._output))
        return np.concatenate(rows)
