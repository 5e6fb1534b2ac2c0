"""One training run, frozen: everything that decides its result."""

import dataclasses
from typing import Literal

from jaxcodec.models.esc import ESCConfig
from jaxcodec.models.rvq_codec import RVQCodecConfig

__all__ = ["Experiment", "Objective", "Schedule"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Weights of the losses (arXiv:2404.19441, non-adversarial)."""

    mel: float = 0.25
    stft: float = 1.0  # power law on real and imaginary part
    compressed: float = 0.0  # power law on magnitudes, see losses.reconstruction
    codebook: float = 1.0
    commitment: float = 0.25
    dft: Literal["matmul", "fft"] = "matmul"  # see dsp.mel.mel_spectrogram


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Phases, batches and the optimizer.

    In the first `pretrain_steps` codebooks are bypassed, all streams are on and there
    are no VQ losses; then codebooks start from data, the optimizer starts afresh, and
    with probability `dropout` an example keeps only a random number of streams.
    """

    steps: int
    pretrain_steps: int
    batch_size: int
    clip_code_frames: int  # length of a crop in code frames
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-4  # cosine decay to this within the last phase
    warmup_steps: int = 0  # of either phase
    weight_decay: float = 1e-2
    clip_norm: float = 0.5
    dropout: float = 0.75
    dropout_per_example: bool = False  # else one draw per batch, as published
    linear_start: int = 0  # crops that start the linear maps; 0: random maps
    kmeans_batches: int = 0  # batches that start the codebooks; 0: random codebooks
    revive_every: int = 0  # steps between revivals of dead codewords; 0: never
    revive_threshold: float = 0.03  # of the mean usage
    ema_decay: float = 0.0  # of the averaged parameters; 0: no average
    gain_db: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self):
        if not 0 <= self.pretrain_steps < self.steps:
            raise ValueError(
                f"pretrain_steps is {self.pretrain_steps} of {self.steps} steps: it "
                "must be at least 0 and leave steps for the quantizers."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A model and how it is trained."""

    name: str
    model: ESCConfig | RVQCodecConfig
    objective: Objective = Objective()
    schedule: Schedule
    seed: int = 53
    window_tile: int | None = None  # execution policy, see modules.policy
    remat: bool = False
