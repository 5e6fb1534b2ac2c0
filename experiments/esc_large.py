"""ESC-Large, published recipe: twice the blocks of Base (arXiv:2404.19441, figure).

15.6 M parameters; not trained here.
    jaxcodec train experiments/esc_large.py --data DIR --out runs/esc_large
"""

import dataclasses

from experiments import esc_base
from jaxcodec.experiment import Experiment
from jaxcodec.models.named import NAMED


def experiment() -> Experiment:
    base = esc_base.experiment()
    return dataclasses.replace(base, name="esc_large", model=NAMED["esc_large"])
