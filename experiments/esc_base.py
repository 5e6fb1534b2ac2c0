"""ESC-Base, published recipe: 9 kbit/s row, PESQ 4.00 (arXiv:2404.19441, figure).

About 16 h for 250k steps on 4 RTX 4090 there; not trained here yet.
    jaxcodec train experiments/esc_base.py --data DIR --out runs/esc_base
"""

from jaxcodec.experiment import Experiment, Schedule
from jaxcodec.models.named import NAMED


def experiment() -> Experiment:
    return Experiment(
        name="esc_base",
        model=NAMED["esc_base"],
        schedule=Schedule(
            steps=250_000,
            pretrain_steps=47_000,
            batch_size=36,
            clip_code_frames=150,
        ),
    )
