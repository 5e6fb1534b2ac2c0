"""`jaxcodec train`: an experiment file and a corpus become a trained model."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxcodec.terminal import misuse, say, say_at_once

if TYPE_CHECKING:
    from jaxcodec.experiment import Experiment
    from jaxcodec.export.weights import Release

__all__ = ["load_experiment", "train"]

Data = Annotated[
    str,
    typer.Option(
        help="Training audio: a folder, a manifest (.csv, .jsonl), the folder of a "
        "TFDS dataset, or tfds:NAME.",
    ),
]


def train(
    experiment: Annotated[
        Path, typer.Argument(help="File with a function experiment(), see experiments/")
    ],
    data: Data,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder of the run; goes on with it.")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Changes a setting."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Starts from the weights of a shipped model or of a folder that "
            "export or release_weights wrote, without pretraining.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of a manifest or a dataset.")
    ] = None,
    valid: Annotated[
        str | None, typer.Option(help="Folder of audio to validate on.")
    ] = None,
    evaluate_every: Annotated[
        int, typer.Option(min=1, help="Steps between validations.")
    ] = 1000,
    valid_clips: Annotated[int, typer.Option(min=1, help="Clips to validate on.")] = 16,
    valid_seconds: Annotated[
        float, typer.Option(min=0.1, help="Of each of these clips.")
    ] = 3.0,
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps between checkpoints.")
    ] = 500,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between logs.")] = 50,
    keep: Annotated[int, typer.Option(min=1, help="Newest checkpoints to keep.")] = 2,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop and save after so long.")
    ] = None,
    max_bad: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of bad files that is still accepted."),
    ] = 0.05,
    threads: Annotated[int, typer.Option(min=0, help="Threads that load audio.")] = 2,
    workers: Annotated[
        int,
        typer.Option(min=0, help="Processes that do; each takes seconds to start."),
    ] = 0,
    cpu_devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Devices that a CPU is divided into, each with its own examples of a "
            "batch; by default up to 8, one per core.",
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write events for TensorBoard, too.")
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Go on although settings have changed."),
    ] = False,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed", help="Join the other processes, as the platform tells."
        ),
    ] = False,
    coordinator: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Of process 0; implies --distributed."),
    ] = None,
    num_processes: Annotated[int | None, typer.Option(min=1, help="In all.")] = None,
    process_id: Annotated[int | None, typer.Option(min=0, help="Of this one.")] = None,
) -> None:
    """Trains a model; started again, it goes on where it was.

    Writes OUT/checkpoints, OUT/log.jsonl and OUT/data_report.json. SIGTERM or Ctrl-C
    saves after the step under way and ends with status 0.
    """
    chosen, note = _chosen(experiment, changes or [], start)
    from jaxcodec import runtime

    try:
        runtime.prepare()
    except RuntimeError as error:
        say(f"error: {error}")
        raise typer.Exit(1) from error
    try:
        import grain  # noqa: F401
        import optax  # noqa: F401
        import orbax.checkpoint  # noqa: F401
    except ImportError as error:
        say(f"error: training needs {error.name}: pip install 'jaxcodec[train]'.")
        raise typer.Exit(1) from error
    from jaxcodec import parallel

    release = None
    if start is not None:
        chosen, release = _started(chosen, start)
    joined = distributed or coordinator is not None
    if joined:
        cluster = parallel.Cluster(coordinator, num_processes, process_id)
        parallel.start_distributed(cluster)
    try:
        _share(chosen, cpu_devices, joined)
    except (ValueError, RuntimeError) as error:
        misuse(f"--cpu-devices {cpu_devices}: {error}")
    if release and parallel.is_main():
        say(f"starts from {release.name} ({release.fingerprint.hex()}){note}.")
    from jaxcodec.train.loop import Options

    options = Options(
        save_every=save_every,
        log_every=log_every,
        evaluate_every=evaluate_every if valid else 0,
        keep=keep,
        best=_best(chosen) if valid else None,
        seconds=seconds,
        accept_changes=accept_changes,
    )
    with _stopping(joined) as stop:
        try:
            _run(
                chosen,
                options,
                stop,
                out,
                data=(data, split, max_bad, threads, workers),
                valid=(valid, valid_clips, valid_seconds) if valid else None,
                tensorboard=tensorboard,
                release=release,
            )
        except (OSError, ValueError, FloatingPointError, ImportError) as error:
            say(f"error: {' '.join(str(error).split())}")
            raise typer.Exit(1) from error


def _share(experiment: "Experiment", devices: int | None, joined: bool) -> None:
    """Divides a CPU; of several processes only if asked, who may share a machine."""
    from jaxcodec import parallel

    if devices is not None or not joined:
        parallel.share_cores(experiment.schedule.batch_size, devices)


def _run(
    experiment: "Experiment",
    options: Any,
    stop: Callable[[], bool],
    out: Path,
    data: tuple[str, str | None, float, int, int],
    valid: tuple[str, int, float] | None,
    tensorboard: bool,
    release: "Release | None",
) -> None:
    import jax

    from jaxcodec import parallel
    from jaxcodec.train.adversarial import make_adversary
    from jaxcodec.train.loop import train as run
    from jaxcodec.train.validation import load_clips, make_validation
    from jaxcodec.train.watchers import JsonLines, ProgressLine, TensorBoard

    plan = experiment.schedule
    pipeline = _pipeline(experiment, *data)
    mesh = parallel.data_mesh()
    evaluate = None
    if valid:
        folder, count, seconds = valid
        clips = load_clips(folder, experiment.model, count, seconds)
        evaluate = make_validation(experiment, clips, mesh=mesh)
    progress = ProgressLine(plan.steps)
    watchers: list[Any] = [JsonLines(out / "log.jsonl"), progress]
    if tensorboard:
        watchers.append(TensorBoard(out / "tensorboard"))
    if parallel.is_main():
        say(
            f"{experiment.name}: {plan.steps} steps of {plan.batch_size} x "
            f"{experiment.clip_seconds:.2f} s on {jax.device_count()} "
            f"{jax.devices()[0].platform} device(s); "
            f"{pipeline.corpus.seconds / 3600:.2f} h of audio, "
            f"{len(pipeline.corpus.faults)} bad files"
        )
    out.mkdir(parents=True, exist_ok=True)
    try:
        state = run(
            experiment,
            pipeline,
            out,
            options=options,
            mesh=mesh,
            adversary=make_adversary(experiment.adversarial),
            evaluate=evaluate,
            watchers=watchers,
            stop=stop,
            release=release,
        )
    finally:
        progress.close()
        if parallel.is_main():
            pipeline.write_report(out / "data_report.json")
        pipeline.close()
    done = int(state.step)
    if parallel.is_main():
        rest = "" if done == plan.steps else "; the same command goes on from there"
        say(f"saved at step {done} of {plan.steps} in {out}{rest}.")


def _pipeline(
    experiment: "Experiment",
    data: str,
    split: str | None,
    max_bad: float,
    threads: int,
    workers: int,
) -> Any:
    import jax

    from jaxcodec.data.opening import open_source
    from jaxcodec.data.pipeline import Pipeline
    from jaxcodec.data.survey import survey
    from jaxcodec.data.transforms import Augment
    from jaxcodec.runtime import cache_folder

    plan, config = experiment.schedule, experiment.model
    source = open_source(data, split=split, sample_rate=config.sample_rate)
    corpus = survey(source, max_bad=max_bad, cache=cache_folder() / "survey")
    return Pipeline(
        corpus,
        sample_rate=config.sample_rate,
        num_samples=config.clip_samples(plan.clip_code_frames),
        batch_size=plan.batch_size,
        seed=experiment.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        augment=Augment(gain_db=plan.gain_db),
        num_threads=threads,
        num_workers=workers,
    )


def load_experiment(path: Path) -> "Experiment":
    """What `experiment()` of a Python file returns.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no such function, or that returns something else.
    """
    import runpy

    from jaxcodec.experiment import Experiment

    if not path.is_file():
        raise FileNotFoundError(
            f"there is no experiment file {str(path)!r}: name one, such as "
            "experiments/esc_tiny.py."
        )
    # so that experiments can build on each other, as the file's own folder allows
    root = str(path.resolve().parent.parent)
    sys.path.insert(0, root)
    try:
        made = runpy.run_path(str(path)).get("experiment")
    finally:
        sys.path.remove(root)
    found = made() if callable(made) else None
    if not isinstance(found, Experiment):
        raise ValueError(
            f"{path} has no function experiment() that returns an Experiment: see "
            "experiments/esc_tiny.py."
        )
    return found


def _chosen(
    path: Path, changes: list[str], start: str | None
) -> tuple["Experiment", str]:
    """The experiment with changes, and what a start from a model changes besides."""
    from jaxcodec.experiment import (
        differences,
        flattened,
        override,
        without_pretraining,
    )

    try:
        planned = load_experiment(path)
        begun = planned if start is None else without_pretraining(planned)
        chosen = override(begun, changes)
    except (OSError, ValueError) as error:
        misuse(str(error))
    if start is not None and chosen != without_pretraining(chosen):
        misuse(
            "a model's codebooks are trained, and are not pretrained for or started "
            "from data again: leave out --from, or what --set says of it."
        )
    moved = differences(flattened(planned), flattened(begun))
    listed = (f"{name}={new} (not {old})" for name, (old, new) in moved.items())
    return chosen, "".join(f", {part}" for part in listed)


def _started(experiment: "Experiment", name: str) -> tuple["Experiment", "Release"]:
    """The experiment that starts from a model, and the model."""
    from jaxcodec import pretrained
    from jaxcodec.export.weights import load_release
    from jaxcodec.train.origin import go_on_from

    try:
        release = load_release(pretrained.find(name))
        return go_on_from(experiment, release), release
    except ValueError as error:
        misuse(" ".join(str(error).split()))


def _best(experiment: "Experiment") -> str:
    """The score of the highest bitrate, whose best checkpoint is kept."""
    return f"si_sdr/{experiment.model.bitrates[-1] / 1000:g}k"


@contextlib.contextmanager
def _stopping(joined: bool) -> Iterator[Callable[[], bool]]:
    """A function that tells whether a signal asked to stop; a second one insists.

    Where several processes train, JAX itself takes SIGTERM and tells all of them.
    """
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        say_at_once("stopping after this step, to save; once more to stop at once.")

    signals = [] if joined else [signal.SIGTERM, signal.SIGINT]
    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
