"""ESC-Base with DAC's discriminators (arXiv:2404.19441, adversarial row).

Mel 15, generator 1, feature matching 2, codebook 1, commitment 0.25, no spectral loss;
gradients of the codec are clipped at 1000. Not trained here.
    jaxcodec train experiments/esc_base_adversarial.py --data DIR --out runs/adversarial
"""

import dataclasses

from experiments import esc_base
from jaxcodec.experiment import Adversarial, Experiment, Objective
from jaxcodec.models.named import NAMED


def experiment() -> Experiment:
    base = esc_base.experiment()
    return dataclasses.replace(
        base,
        name="esc_base_adversarial",
        model=NAMED["esc_base_adversarial"],
        objective=Objective(mel=15.0, stft=0.0),
        schedule=dataclasses.replace(base.schedule, clip_norm=1e3),
        adversarial=Adversarial(),
    )
