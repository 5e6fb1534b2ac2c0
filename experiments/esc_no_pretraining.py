"""Ablation: ESC-Base whose quantizers are on from the first step.

A row of the ablation table of arXiv:2404.19441, 50 epochs. Not trained here.
    jaxcodec train experiments/esc_no_pretraining.py --data DIR --out runs/direct
"""

import dataclasses

from experiments import esc_base
from jaxcodec.experiment import Experiment


def experiment() -> Experiment:
    base = esc_base.experiment()
    plan = dataclasses.replace(base.schedule, steps=250_000, pretrain_steps=0)
    return dataclasses.replace(base, name="esc_no_pretraining", schedule=plan)
