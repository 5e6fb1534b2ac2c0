"""ESC-Tiny, 1.0 M parameters: the paper's recipe on one machine without accelerator.

No row of the paper; see the model card for the measured scores.
    jaxcodec train experiments/esc_tiny.py --data DIR --out runs/esc_tiny
and on from the shipped weights, at a rate below that of the start, with
    --from esc_tiny --set schedule.learning_rate=1e-4
"""

from jaxcodec.experiment import Experiment, Objective, Schedule
from jaxcodec.models.named import NAMED


def experiment() -> Experiment:
    return Experiment(
        name="esc_tiny",
        model=NAMED["esc_tiny"],
        objective=Objective(stft=0.0, compressed=5.0, dft="fft"),
        schedule=Schedule(
            steps=10_000,
            pretrain_steps=400,
            batch_size=4,
            clip_code_frames=50,
            learning_rate=1e-3,
            final_learning_rate=1e-5,
            warmup_steps=50,
            linear_start=64,
            kmeans_batches=64,
            revive_every=200,
            dropout_per_example=True,
            ema_decay=0.998,
        ),
    )
