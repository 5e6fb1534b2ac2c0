"""One training run, frozen: everything that decides its result."""

import ast
import dataclasses
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

from jaxcodec.models.configs import ESCConfig, RVQCodecConfig
from jaxcodec.models.discriminators import DiscriminatorConfig

__all__ = [
    "Adversarial",
    "Experiment",
    "Objective",
    "Origin",
    "Schedule",
    "differences",
    "flattened",
    "override",
    "without_pretraining",
]


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

    In the first `pretrain_steps` codebooks are held and bypassed, all streams are on
    and there are no VQ losses; then codebooks start from data, the optimizer starts
    afresh, and with probability `dropout` an example keeps only a random number of
    streams.
    """

    steps: int
    pretrain_steps: int
    batch_size: int  # of all devices together
    clip_code_frames: int  # length of a crop in code frames
    accumulate: int = 1  # steps whose gradients make one update
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
    ema_decay: float = 0.0  # of the averaged parameters, which are what is released
    gain_db: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self):
        if not 0 <= self.pretrain_steps < self.steps:
            raise ValueError(
                f"pretrain_steps is {self.pretrain_steps} of {self.steps} steps: it "
                "must be at least 0 and leave steps for the quantizers."
            )
        if self.accumulate < 1 or self.pretrain_steps % self.accumulate:
            raise ValueError(
                f"accumulate is {self.accumulate}: it must be at least 1 and divide "
                f"pretrain_steps ({self.pretrain_steps})."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Discriminators beside the codec, from the end of pretraining on.

    Source: the recipe of arXiv:2306.06546, as arXiv:2404.19441 uses it.
    """

    discriminators: DiscriminatorConfig = DiscriminatorConfig()  # noqa: RUF009
    generator_weight: float = 1.0
    feature_weight: float = 2.0
    learning_rate: float = 1e-4  # of the discriminators
    clip_norm: float = 10.0  # of their gradients


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Released weights that a run starts from; see `train.origin`."""

    name: str  # of the model
    fingerprint: str  # of its release, in hexadecimal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A model and how it is trained."""

    name: str
    model: ESCConfig | RVQCodecConfig
    objective: Objective = Objective()
    schedule: Schedule
    adversarial: Adversarial | None = None
    origin: Origin | None = None  # None: starts from nothing
    seed: int = 53
    precision: Literal["float32", "bfloat16"] = "float32"  # of the model's products
    shard_optimizer: bool = False  # divide its state over the devices
    # how it is executed, see modules.policy; what suits the devices if "auto"
    layout: Literal["auto", "channels", "lanes", "fused"] = "auto"
    window_tile: int | None = None
    remat: bool = False

    @property
    def clip_seconds(self) -> float:
        """Length of a crop."""
        samples = self.model.clip_samples(self.schedule.clip_code_frames)
        return samples / self.model.sample_rate


def without_pretraining(experiment: Experiment) -> Experiment:
    """The experiment with codebooks that are trained: none of what makes a start."""
    schedule = dataclasses.replace(
        experiment.schedule, pretrain_steps=0, linear_start=0, kmeans_batches=0
    )
    return dataclasses.replace(experiment, schedule=schedule)


# fields that change how fast a run is, not what it computes (but for rounding)
EXECUTION = ("shard_optimizer", "layout", "window_tile", "remat")
TITLES = ("origin.name",)  # what a fingerprint stands beside


def flattened(experiment: Experiment) -> dict[str, Any]:
    """Every setting under its dotted name, as plain JSON values."""
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if dataclasses.is_dataclass(value):
            if not prefix.count("."):  # which of several configs is a setting, too
                found[f"{prefix}type"] = type(value).__name__
            for field in dataclasses.fields(value):
                walk(f"{prefix}{field.name}.", getattr(value, field.name))
        else:
            found[prefix[:-1]] = list(value) if isinstance(value, tuple) else value

    for field in dataclasses.fields(experiment):
        value = getattr(experiment, field.name)
        walk(f"{field.name}.", value)
    return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ and decide the result: name to (old, new).

    Args:
        old, new: of `flattened`; a setting that one of them lacks counts as None.
    """
    names = [n for n in {**old, **new} if n not in (*EXECUTION, *TITLES)]
    return {n: (old.get(n), new.get(n)) for n in names if old.get(n) != new.get(n)}


def override(experiment: Experiment, assignments: Iterable[str]) -> Experiment:
    """An experiment with other settings.

    Args:
        experiment: to start from.
        assignments: such as `schedule.learning_rate=2e-4` or `model.channels=16,24`.

    Raises:
        ValueError: there is no such setting, or the value does not fit it.
    """
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(
                f"{assignment!r} sets nothing: expected NAME=VALUE, such as "
                "schedule.steps=1000."
            )
        experiment = _replaced(experiment, name.strip().split("."), text.strip(), name)
    return experiment


def _replaced(holder: Any, path: list[str], text: str, name: str) -> Any:
    whole: Any = holder
    hints = typing.get_type_hints(type(holder))
    if not dataclasses.is_dataclass(holder) or path[0] not in hints:
        choices = ", ".join(hints) if dataclasses.is_dataclass(holder) else "none"
        raise ValueError(
            f"there is no setting {name.strip()!r}: {path[0]!r} is not among {choices}."
        )
    value: Any = getattr(holder, path[0])
    changed: Any
    if len(path) > 1:
        changed = _replaced(value, path[1:], text, name)
    elif dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        inside = ", ".join(f"{name.strip()}.{field}" for field in fields)
        raise ValueError(f"{name.strip()!r} is a group of settings: set {inside}.")
    else:
        changed = _parsed(text, hints[path[0]], name.strip())
    return dataclasses.replace(whole, **{path[0]: changed})


def _parsed(text: str, hint: Any, name: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    fits, value = _fit(value, hint)
    if not fits:
        wanted = hint.__name__ if isinstance(hint, type) else str(hint)
        wanted = wanted.replace("typing.", "")
        raise ValueError(f"{name} is {text!r}: expected {wanted}.")
    return value


def _fit(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether a value is of a type, and the value as that type."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in choices, value
    if origin in (types.UnionType, typing.Union):
        for choice in choices:
            fits, made = _fit(value, choice)
            if fits:
                return True, made
        return False, value
    if origin is tuple:
        if not isinstance(value, tuple | list):
            value = (value,)
        kinds = choices[:1] * len(value) if choices[1:] == (Ellipsis,) else choices
        parts = [_fit(v, k) for v, k in zip(value, kinds, strict=False)]
        fits = len(value) == len(kinds) and all(ok for ok, _ in parts)
        return fits, tuple(v for _, v in parts)
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number, float(value) if is_number else value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    return isinstance(value, hint), value
