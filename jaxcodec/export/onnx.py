"""ONNX through jax2onnx: fixed-length chunks, any batch, standard operators only.

The time axis is fixed to the chunks of the manifest: converters fail on a dynamic one
that is cut into windows. The spectral transforms are matrix products, so no operator
for them is needed.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from jaxcodec.export.programs import Tensor

__all__ = ["OPSET", "to_onnx"]

OPSET = 23


def to_onnx(
    function: Callable[..., jax.Array],
    weights: dict[str, Any],
    inputs: Sequence[Tensor],
    output: str,
) -> bytes:
    """Converts `(weights, *inputs) -> output` to a model that contains the weights.

    Weights of fewer bits stay so in the model, which makes them float32 as it runs.

    Args:
        function: see `export.programs`.
        weights: flat, in any precision.
        inputs: whose batch is the string `batch`.
        output: its name.

    Raises:
        ModuleNotFoundError: jax2onnx is not installed.
    """
    import jax2onnx

    (batch,) = export.symbolic_shape("batch")
    structs = [
        jax.ShapeDtypeStruct(
            tuple(batch if size == "batch" else size for size in entry.shape),
            jnp.dtype(entry.dtype),
        )
        for entry in inputs
    ]

    def closed(*arrays):
        # arrays of JAX, so that becoming float32 is part of the program
        own = {name: jnp.asarray(a) for name, a in weights.items()}
        return function(own, *arrays)

    noise = logging.getLogger("onnx_ir")
    level = noise.level
    noise.setLevel(logging.ERROR)
    try:
        model: Any = jax2onnx.to_onnx(
            closed,
            structs,
            model_name="jaxcodec",
            opset=OPSET,
            input_names=[entry.name for entry in inputs],
            output_names=[output],
        )
    finally:
        noise.setLevel(level)
    return model.SerializeToString()
