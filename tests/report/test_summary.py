"""Figures of a report from rows so small that every one is known."""

import json
from xml.etree import ElementTree

import pytest

from jaxcodec.evaluate.store import Store, row_key
from jaxcodec.metrics.catalogue import METRICS
from jaxcodec.report import summary
from jaxcodec.report.evaluation import Evaluation, load
from jaxcodec.report.plot import style_of, svg_plot
from jaxcodec.report.tables import all_tables

SECONDS = {"c1": 1.0, "c2": 2.0, "c3": 1.0}
LABELS = {
    "c1": {"language": "en", "speaker": "x"},
    "c2": {"language": "en", "speaker": "x"},
    "c3": {"language": "nl", "speaker": "y"},
}
# codec, kbit/s: SI-SDR and mel distance of each clip; `far` needs twice the bits
SCORES = {
    ("ours", 4): [(1, 6), (2, 5), (3, 4)],
    ("ours", 8): [(9, 3), (8, 2), (10, 1)],
    ("far", 8): [(1, 6), (2, 5), (3, 4)],
    ("far", 16): [(9, 3), (8, 2), (10, 1)],
}


def _row(system, kbps, clip, scores, number):
    num_bytes = 125 * kbps * SECONDS[clip]
    row = {
        "key": row_key(system, "1", f"{kbps}k", clip),
        "system": system,
        "version": "1",
        "setting": f"{kbps}k",
        "bitrate": 1000.0 * kbps,
        "digest": clip,
        "clip": clip,
        "labels": LABELS[clip],
        "seconds": SECONDS[clip],
        "bytes": num_bytes,
        "payload_bytes": num_bytes / 2 if system == "far" else num_bytes,
        "delay": (16, 32, 160)[number] if system == "far" else 0,
        "length_error": 7 if (system, number) == ("far", 1) else 0,
        "encode_seconds": SECONDS[clip] / 10,
        "decode_seconds": SECONDS[clip] / 40,
    }
    return row | {"scores": dict(zip(("si_sdr", "mel"), scores, strict=True))}


@pytest.fixture
def evaluation(tmp_path):
    rows = [
        _row(system, kbps, clip, scores, number) | {"failures": {}}
        for (system, kbps), found in SCORES.items()
        for number, (clip, scores) in enumerate(zip(SECONDS, found, strict=True))
    ]
    systems = {
        name: {
            "kind": kind,
            "version": "1",
            "about": {},
            "settings": [{"label": f"{kbps}k"} for of, kbps in SCORES if of == name],
        }
        for name, kind in (("far", "baseline"), ("ours", "model"))
    }
    clips = [
        {"name": name, "digest": name, "seconds": seconds, "labels": LABELS[name]}
        for name, seconds in SECONDS.items()
    ]
    usage = {
        "codebook_size": 4,
        "codes": 10,
        "entropy": [[1.5, 1.25], [0.5, 0.0]],
        "used": [[4, 3], [2, 1]],
        "utilisation": [0.6875, 0.40625],
    }
    about = {"systems": systems, "clips": clips, "codebooks": {"ours": usage}}
    about |= {"missing": {"speex": "speex is not installed"}}
    return Evaluation(Store(tmp_path), about, rows)


def test_points(evaluation):
    points = {(p.system, p.setting): p for p in summary.summarise(evaluation)}
    far = points["far", "8k"]
    assert (far.kbps, far.payload_kbps) == pytest.approx((8, 4))
    assert (far.delay_ms, far.delay_spread_ms, far.length_errors) == (2, 9, 1)
    assert (far.encode_speed, far.decode_speed) == pytest.approx((10, 40))
    ours = points["ours", "8k"]
    assert (ours.utilisation, far.utilisation) == (0.40625, None)
    assert ours.scores["si_sdr"].mean == 9
    # x has two clips and y one; two speakers are drawn
    assert ours.scores["mel"] == (2, 1, 2.5, 3, 2)


def test_comparisons(evaluation):
    assert evaluation.reference == "ours"  # a model, wherever it stands
    points = summary.summarise(evaluation)
    chosen = summary.compared(evaluation, points)
    assert [(p.system, p.setting) for p in chosen] == [("ours", "8k"), ("far", "8k")]
    for name, mean, wins in (("si_sdr", 7, 1), ("mel", -3, 0)):
        (found,) = summary.paired(evaluation, points, METRICS[name])
        mine, other, difference = found  # 4 and 8 kbit/s are not compared
        assert (mine.setting, other.system, other.setting) == ("8k", "far", "8k")
        assert difference.difference.mean == mean
        assert difference.wins == wins
    for is_payload, percent in ((False, 100), (True, 0)):
        found = summary.bd_rates(evaluation, points, is_payload)
        assert found.keys() == {"far"}
        assert found["far"] == pytest.approx({"si_sdr": percent, "mel": percent})


def test_groups_and_worst_clips(evaluation):
    points = summary.summarise(evaluation)
    (ours,) = [p for p in points if (p.system, p.setting) == ("ours", "8k")]
    found = summary.breakdown(evaluation, [ours], "language", METRICS["mel"])
    assert found == {"en": [(2.5, 2, 3, 2, 2)], "nl": [(1, 1, 1, 1, 1)]}
    for name, order in (("si_sdr", ["c2", "c1"]), ("mel", ["c1", "c2"])):
        worst = summary.worst(evaluation, ours, METRICS[name], 2)
        assert [row["clip"] for row in worst] == order


def test_failures_are_listed_by_reason(evaluation):
    reason = "too short | or silent"
    first, *_, last = evaluation.rows
    first["failures"] = {"stoi": reason, "mel": "other", "estoi": reason}
    last["failures"] = {"stoi": reason, "estoi": reason}
    both = ("ours", "far"), ("c1", "c3")
    assert summary.failures(evaluation) == [
        (("mel",), "other", ("ours",), ("c1",), 1),
        (("stoi", "estoi"), reason, *both, 2),
    ]
    tables = all_tables(evaluation, summary.summarise(evaluation))
    (table,) = tables["failures"]
    assert "| too short \\| or silent |" in table.markdown()
    assert "ablations" not in tables  # there is one model


def test_rows_of_other_clips_and_weights_stay_out(evaluation):
    store = evaluation.store
    for row in evaluation.rows:
        store.add(row)
    about = json.loads(json.dumps(evaluation.about))
    del about["clips"][0]
    about["systems"]["far"]["version"] = "2"
    store.set_about(about)
    found = load(store.folder)
    assert {(row["system"], row["clip"]) for row in found.rows} == {
        ("ours", "c2"),
        ("ours", "c3"),
    }


def test_codebooks_and_ablations(evaluation):
    points = summary.summarise(evaluation)
    (table,) = all_tables(evaluation, points)["codebooks"]
    assert table.rows == [
        ["stream 1", "1.50", "1.25", "4", "3", "0.688"],
        ["stream 2", "0.50", "0.00", "2", "1", "0.406"],
    ]
    evaluation.about["systems"]["far"] |= {"kind": "model", "about": {"quantizer": "q"}}
    (table,) = all_tables(evaluation, points)["ablations"]
    first = next(row for row in table.rows if row[0] == "far")
    assert first == ["far", "-", "q", "-", "8k", "2.0 ± 0.8", "5.00 ± 0.75", "-"]


def test_plots_stand_the_right_way_up(evaluation):
    points = summary.summarise(evaluation)
    styles = style_of(["ours", "far"])
    for is_payload, rates in ((False, [4, 8, 8, 16]), (True, [4, 8, 4, 8])):
        for name in ("si_sdr", "mel"):
            text = svg_plot(points, METRICS[name], is_payload, styles)
            root = ElementTree.fromstring(text)
            titles = [node.text for node in root.iter("title")]
            assert [t.split(": ")[1].split(" kbit/s")[0] for t in titles] == [
                f"{rate:.2f}" for rate in rates
            ]
            for line in root.iter("polyline"):  # SVG counts downwards
                (x0, y0), (x1, y1) = (
                    map(float, place.split(",")) for place in line.get("points").split()
                )
                assert x0 < x1
                assert (y0 > y1) == (name == "si_sdr")
