"""All tables of a report."""

from jaxcodec.metrics.catalogue import Metric
from jaxcodec.report import summary
from jaxcodec.report.evaluation import Evaluation
from jaxcodec.report.summary import Point
from jaxcodec.report.table import (
    NONE,
    Table,
    interval_cell,
    label_cell,
    mean_cell,
    number_cell,
)

__all__ = ["about_intervals", "all_tables", "readme_table"]

KBPS = "kbit/s of a file"
README = ("pesq_wb", "estoi", "visqol", "si_sdr", "mel")


def all_tables(evaluation: Evaluation, points: list[Point]) -> dict[str, list[Table]]:
    """Every table of the report, by section."""
    primary = evaluation.primary
    chosen = summary.compared(evaluation, points)
    labels = {label for row in evaluation.rows for label in row["labels"]}
    sections = {
        "scores": [_scores(evaluation, points)],
        "failures": [_failures(evaluation)],
        "comparison": [_bd(evaluation, points), _paired(evaluation, points, primary)],
        "ablations": _ablations(evaluation, points),
        "cost": [_cost(points)],
        "codebooks": _codebooks(evaluation),
        "groups": [
            _breakdown(evaluation, chosen, label, primary)
            for label in ("language", "speaker", "corpus")
            if label in labels
        ],
        "worst": [_worst(evaluation, point, primary) for point in chosen],
    }
    return {name: tables for name, tables in sections.items() if tables}


def readme_table(evaluation: Evaluation, points: list[Point]) -> Table:
    """A small table of what matters most."""
    metrics = [metric for metric in evaluation.metrics if metric.name in README]
    rows = [
        [
            point.system,
            point.setting,
            number_cell(point.kbps),
            *(mean_cell(point, metric, with_interval=False) for metric in metrics),
        ]
        for point in points
    ]
    header = ["codec", "setting", "kbit/s", *(metric.label for metric in metrics)]
    return Table("Scores", "", header, rows)


def about_intervals(evaluation: Evaluation) -> str:
    """What was drawn for the bootstrap, in a sentence or two."""
    clips = evaluation.about["clips"]
    named = {clip["labels"].get("speaker") for clip in clips} - {None}
    alone = sum("speaker" not in clip["labels"] for clip in clips)
    if not named:
        return (
            "Intervals come from drawing clips anew; no speaker is known, and if one "
            "spoke several clips, they are too narrow."
        )
    if len(named) + alone == 1:
        return (
            "Intervals come from drawing clips anew; all are of one speaker, and they "
            "tell nothing of others."
        )
    plural = "" if alone == 1 else "s"
    others = f" and {alone} clip{plural} without a known speaker" if alone else ""
    speakers = f"{len(named)} speaker{'' if len(named) == 1 else 's'}"
    return (
        f"Intervals come from drawing anew {speakers}{others}, each with "
        "all its clips: clips of one speaker are alike."
    )


def _scores(evaluation: Evaluation, points: list[Point]) -> Table:
    metrics = evaluation.metrics
    num_clips = len(evaluation.about["clips"])
    rows = [
        [
            point.system,
            point.setting,
            number_cell(point.kbps),
            number_cell(point.payload_kbps),
            f"{point.num_decoded} of {num_clips}",
            *(mean_cell(point, metric) for metric in metrics),
        ]
        for point in points
    ]
    return Table(
        "Scores",
        "Means over clips with the half width of their 95 % bootstrap interval. "
        f"{about_intervals(evaluation)} [k failed] says on how many clips a measure "
        "has no value: they are not in the mean, and the table of failures tells why. "
        "[on k] says that a measure was taken on so many only. kbit/s is counted "
        "from the bytes that were written; payload leaves headers and framing out.",
        [
            "codec",
            "setting",
            KBPS,
            "payload kbit/s",
            "clips decoded",
            *(label_cell(metric) for metric in metrics),
        ],
        rows,
    )


def _failures(evaluation: Evaluation) -> Table:
    rows = [
        [
            ", ".join(failed.metrics),
            ", ".join(failed.systems),
            failed.reason,
            ", ".join(failed.clips[:5]) + (" ..." if len(failed.clips) > 5 else ""),
            str(failed.num_rows),
        ]
        for failed in summary.failures(evaluation)
    ]
    note = (
        "What has no value, and why; `codec` is a clip that could not be coded at all."
        if rows
        else "Every measure has a value on every clip of every codec."
    )
    header = ["measures", "codecs", "reason", "clips", "rows"]
    return Table("Failures", note, header, rows, num_names=4)


def _bd(evaluation: Evaluation, points: list[Point]) -> Table:
    metrics = evaluation.metrics
    rows = []
    for is_payload, what in ((False, "files"), (True, "payload")):
        found = summary.bd_rates(evaluation, points, is_payload)
        for system, values in found.items():
            cells = [values[metric.name] for metric in metrics]
            shown = [NONE if cell is None else f"{cell:+.0f} %" for cell in cells]
            rows.append([system, what, *shown])
    return Table(
        f"BD-rate against {evaluation.reference}",
        f"How many more bits a codec needs than {evaluation.reference} for the same "
        "score, averaged over the scores that both reach; below zero it needs fewer. A "
        "dash: the curves have no scores in common. Settings that cost more than "
        "another and score no better are left out of the curve.",
        ["codec", "bits of", *(metric.label for metric in metrics)],
        rows,
    )


def _paired(evaluation: Evaluation, points: list[Point], metric: Metric) -> Table:
    rows = []
    for mine, other, found in summary.paired(evaluation, points, metric):
        interval = found.difference
        sign = "" if metric.higher_is_better else " (lower is better)"
        form = f".{metric.digits}f"
        rows.append(
            [
                f"{mine.system} {mine.setting}",
                f"{other.system} {other.setting}",
                f"{mine.kbps:.2f} / {other.kbps:.2f}",
                f"{interval.mean:+{form}}{sign}",
                f"{interval.low:+{form}} to {interval.high:+{form}}"
                if interval.num_clips > 1
                else NONE,
                f"{100 * found.wins:.0f} %",
                str(interval.num_clips),
            ]
        )
    return Table(
        f"Paired differences in {metric.label}",
        "Clip by clip, where bitrates differ by at most a third: the mean difference, "
        "its 95 % bootstrap interval (drawn as those of scores), and on how many clips "
        "the first scores higher.",
        ["codec", "against", KBPS, "difference", "interval", "higher", "clips"],
        rows,
    )


def _cost(points: list[Point]) -> Table:
    rows = [
        [
            point.system,
            point.setting,
            number_cell(point.encode_speed, 1),
            number_cell(point.decode_speed, 1),
            number_cell(point.delay_ms, 1),
            number_cell(point.delay_spread_ms, 1),
            str(point.length_errors),
        ]
        for point in points
    ]
    return Table(
        "Speed, delay and length",
        "Speed in times real time on the machine of the evaluation, for programs with "
        "their start; our models are coded in batches, and compiling is not counted. "
        "Delay in milliseconds is the median over clips and was taken out before "
        "scoring; clips that came back with another length are counted.",
        [
            "codec",
            "setting",
            "encoding",
            "decoding",
            "delay ms",
            "spread ms",
            "other length",
        ],
        rows,
    )


def _codebooks(evaluation: Evaluation) -> list[Table]:
    tables = []
    for system, usage in evaluation.about["codebooks"].items():
        if system not in evaluation.about["systems"]:
            continue
        groups = len(usage["entropy"][0])
        rows = [
            [
                f"stream {number}",
                *(f"{value:.2f}" for value in entropy),
                *(str(count) for count in used),
                f"{share:.3f}",
            ]
            for number, (entropy, used, share) in enumerate(
                zip(usage["entropy"], usage["used"], usage["utilisation"], strict=True),
                start=1,
            )
        ]
        names = range(1, groups + 1)
        tables.append(
            Table(
                f"Codebooks of {system}",
                f"Entropy in bits of each group's codes ({usage['codes']} codes per "
                f"codebook of {usage['codebook_size']}; few codes make it look low), "
                "codewords in use, and the utilisation of all streams up to this one.",
                [
                    "stream",
                    *(f"bits, group {i}" for i in names),
                    *(f"used, group {i}" for i in names),
                    "utilisation",
                ],
                rows,
                num_names=1,
            )
        )
    return tables


def _breakdown(
    evaluation: Evaluation, points: list[Point], label: str, metric: Metric
) -> Table:
    found = summary.breakdown(evaluation, points, label, metric)
    rows = []
    for value, intervals in found.items():
        count = max((i.num_clips for i in intervals if i), default=0)
        cells = [interval_cell(interval, metric) for interval in intervals]
        rows.append([value, str(count), *cells])
    names = [f"{p.system} {p.setting}" for p in points]
    return Table(
        f"{metric.label} by {label}",
        f"At about the bitrate of {names[0]}, or the nearest that a codec has. "
        "Intervals are drawn as those of scores, but over clips where all in a row are "
        "of one speaker.",
        [label, "clips", *names],
        rows,
        num_names=1,
    )


def _worst(evaluation: Evaluation, point: Point, metric: Metric) -> Table:
    metrics = evaluation.metrics
    rows = [
        [
            row["clip"],
            ", ".join(row["labels"].values()),
            f"{row['seconds']:.1f}",
            *(
                f"{row['scores'][m.name]:.{m.digits}f}"
                if m.name in row["scores"]
                else "failed"
                for m in metrics
            ),
        ]
        for row in summary.worst(evaluation, point, metric)
    ]
    return Table(
        f"Worst ten clips of {point.system} {point.setting}",
        f"By {metric.label}.",
        ["clip", "labels", "seconds", *(m.label for m in metrics)],
        rows,
    )


def _ablations(evaluation: Evaluation, points: list[Point]) -> list[Table]:
    """Architecture x quantizer x pretraining, if there are several models."""
    systems = {
        name: about["about"]
        for name, about in evaluation.about["systems"].items()
        if about["kind"] == "model"
    }
    if len(systems) < 2:
        return []
    columns = ("architecture", "quantizer", "pretraining")
    metrics = evaluation.metrics
    rows = [
        [
            point.system,
            *(systems[point.system].get(column, NONE) for column in columns),
            point.setting,
            *(mean_cell(point, metric) for metric in metrics),
            number_cell(point.utilisation, 3),
        ]
        for point in points
        if point.system in systems
    ]
    return [
        Table(
            "Ablations",
            "Our own models, by what they are made of.",
            [
                "model",
                *columns,
                "setting",
                *(label_cell(metric) for metric in metrics),
                "utilisation",
            ],
            rows,
            num_names=5,
        )
    ]
