"""Codecs x clips x bitrates -> rows: everything that was measured, and what failed.

`evaluate` is what `jaxcodec evaluate` calls. Rows are described in `store`.
"""

from jaxcodec.evaluate.options import Options
from jaxcodec.evaluate.run import evaluate

__all__ = ["Options", "evaluate"]
