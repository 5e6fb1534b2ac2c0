"""Everything once, in a minute on any machine: both phases, k-means, revival.

No row of any table; its codec is too small to be of use.
    jaxcodec train experiments/smoke.py --data DIR --out runs/smoke
"""

from jaxcodec.experiment import Experiment, Objective, Schedule
from jaxcodec.models.configs import ESCConfig


def experiment() -> Experiment:
    return Experiment(
        name="smoke",
        model=ESCConfig(
            channels=(6, 12),
            heads=(2,),
            max_streams=2,
            codebook_size=64,
            codebook_dims=(8, 8),
            compression=0.5,
        ),
        objective=Objective(stft=0.0, compressed=5.0, dft="fft"),
        schedule=Schedule(
            steps=60,
            pretrain_steps=20,
            batch_size=2,
            clip_code_frames=25,
            learning_rate=1e-3,
            final_learning_rate=1e-4,
            warmup_steps=5,
            linear_start=16,
            kmeans_batches=8,
            revive_every=10,
            dropout_per_example=True,
            ema_decay=0.9,
        ),
    )
