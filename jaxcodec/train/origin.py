"""Released weights as the start of a run, in the place of pretraining."""

import dataclasses

from flax.traverse_util import flatten_dict

from jaxcodec.arrays import PyTree
from jaxcodec.experiment import Experiment, Origin, without_pretraining
from jaxcodec.export.weights import Release
from jaxcodec.models.named import config_to_dict

__all__ = ["go_on_from", "origin_of", "variables_of"]

LISTED = 4  # arrays that a message names


def origin_of(release: Release) -> Origin:
    """What a run that starts from a release keeps in its settings."""
    return Origin(name=release.name, fingerprint=release.fingerprint.hex())


def go_on_from(experiment: Experiment, release: Release) -> Experiment:
    """The experiment that trains a released model further.

    Its codebooks are there, so nothing is pretrained and nothing starts from data.

    Args:
        experiment: of the same model.
        release: the model.

    Raises:
        ValueError: the experiment's model is another one.
    """
    theirs, ours = config_to_dict(release.config), config_to_dict(experiment.model)
    differing = [
        f"model.{name} is {theirs.get(name)!r} there and {ours.get(name)!r} here"
        for name in {**theirs, **ours}
        if theirs.get(name) != ours.get(name)
    ]
    if differing:
        raise ValueError(
            f"the weights of {release.name} are of another model than the experiment "
            f"{experiment.name}: {'; '.join(differing)}. Name the experiment of that "
            "model, or change the settings of this one."
        )
    return dataclasses.replace(
        without_pretraining(experiment), origin=origin_of(release)
    )


def variables_of(
    release: Release, params: PyTree, batch_stats: PyTree
) -> tuple[PyTree, PyTree]:
    """The release's parameters and batch statistics.

    Args:
        release: the model.
        params, batch_stats: names and shapes that they must have.

    Raises:
        ValueError: an array is missing, has another shape, or has no place.
    """
    found = flatten_dict(release.variables, sep="/")
    wanted = flatten_dict({"params": params, "batch_stats": batch_stats}, sep="/")
    wrong = [
        f"{name} is {_shape(found, name)}, expected {_shape(wanted, name)}"
        for name in sorted({**found, **wanted})
        if _shape(found, name) != _shape(wanted, name)
    ]
    if wrong:
        more = f", and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise ValueError(
            f"the weights of {release.name} do not fit their own config: "
            f"{'; '.join(wrong[:LISTED])}{more}. Get another copy of the model."
        )
    return release.variables["params"], release.variables.get("batch_stats", {})


def _shape(arrays: dict[str, PyTree], name: str) -> str:
    return "x".join(map(str, arrays[name].shape)) if name in arrays else "missing"
