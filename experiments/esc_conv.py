"""Ablation: cross-scale streams on a convolutional pyramid.

9.1 M parameters; a row of the ablation table of arXiv:2404.19441: 50 epochs,
5 of them of pretraining. Not trained here.
    jaxcodec train experiments/esc_conv.py --data DIR --out runs/esc_conv
"""

import dataclasses

from experiments import esc_base
from jaxcodec.experiment import Experiment
from jaxcodec.models.named import NAMED


def experiment() -> Experiment:
    base = esc_base.experiment()
    plan = dataclasses.replace(base.schedule, steps=250_000, pretrain_steps=25_000)
    return dataclasses.replace(
        base, name="esc_conv", model=NAMED["esc_conv"], schedule=plan
    )
