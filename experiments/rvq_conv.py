"""Ablation: plain residual VQ at the bottom of a convolutional pyramid.

8.9 M parameters; a row of the ablation table of arXiv:2404.19441: 50 epochs,
5 of them of pretraining. Not trained here.
    jaxcodec train experiments/rvq_conv.py --data DIR --out runs/rvq_conv
"""

import dataclasses

from experiments import esc_base
from jaxcodec.experiment import Experiment
from jaxcodec.models.named import NAMED


def experiment() -> Experiment:
    base = esc_base.experiment()
    plan = dataclasses.replace(base.schedule, steps=250_000, pretrain_steps=25_000)
    return dataclasses.replace(
        base, name="rvq_conv", model=NAMED["rvq_conv"], schedule=plan
    )
