"""Ablation: plain residual VQ at the bottom of the Swin pyramid.

8.2 M parameters; a row of the ablation table of arXiv:2404.19441: 50 epochs,
5 of them of pretraining. Not trained here.
    jaxcodec train experiments/rvq_swin.py --data DIR --out runs/rvq_swin
"""

import dataclasses

from experiments import esc_base
from jaxcodec.experiment import Experiment
from jaxcodec.models.named import NAMED


def experiment() -> Experiment:
    base = esc_base.experiment()
    plan = dataclasses.replace(base.schedule, steps=250_000, pretrain_steps=25_000)
    return dataclasses.replace(
        base, name="rvq_swin", model=NAMED["rvq_swin"], schedule=plan
    )
