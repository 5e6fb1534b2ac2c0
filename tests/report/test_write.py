"""The files of a report, checked as a reader would use them."""

import base64
import csv
import dataclasses
import html.parser
import io
import json
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile

from jaxcodec.evaluate.store import Store
from jaxcodec.report import report
from jaxcodec.report.evaluation import load
from jaxcodec.report.listening import _settings
from jaxcodec.report.page import _embed
from jaxcodec.report.summary import compared, summarise
from jaxcodec.report.tables import about_intervals, all_tables
from jaxcodec.report.write import FILES

VOID = {"meta", "link", "input", "img", "br"}


class Page(html.parser.HTMLParser):
    """Checks that elements are closed in order, and gathers what is in them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.texts, self.ids = [], [], {}, set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        self.links += [
            found[k] for k in ("src", "href", "data", "action") if k in found
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, text):
        tag = self.open[-1] if self.open else ""
        self.texts[tag] = self.texts.get(tag, "") + text + "\n"


@pytest.fixture(scope="module")
def page(evaluated):
    return Page((evaluated / "report.html").read_text())


def test_every_file_is_there(evaluated):
    for name in FILES:
        assert (evaluated / name).stat().st_size > 100, name


def test_the_page_needs_nothing_else(page):
    assert {link[0] if link[0] == "#" else link[:5] for link in page.links} == {
        "#",
        "data:",
    }
    code = page.texts["script"] + page.texts["style"]
    assert not re.search(
        r"https?://|@import|url\(|fetch\(|XMLHttpRequest|import\(", code
    )
    assert {link[1:] for link in page.links if link[0] == "#"} <= page.ids


def test_the_page_holds_the_rows_and_survives_strange_names(page, evaluated):
    data = json.loads(page.texts["script"].partition("\n")[0])
    rows = Store(evaluated).rows
    assert len(data["rows"]["lines"]) == len(rows) == 4 * (3 + 3 + 2 + 1)
    scored = {line[5] for line in data["rows"]["lines"]}
    wanted = {
        round(r["scores"]["si_sdr"], 4)
        for r in rows.values()
        if r["scores"].get("si_sdr")
    }
    assert wanted <= scored
    assert "a<b" in page.texts["td"]
    assert "da<ta" in page.texts["code"]
    assert "the encoder <b>fell over</b>" in page.texts["td"]
    assert "jaxcodec evaluate --data 'a & b'" in page.texts["pre"]
    stimuli = [s for example in data["examples"] for s in example["stimuli"]]
    assert len(data["examples"]) == 2
    assert {s["role"] for s in stimuli} == {"original", "anchor", "codec"}
    assert {s["system"] for s in stimuli} >= {"ours", "ours-2", "a<b"}
    near = {(s["system"], s["setting"]) for s in stimuli if s.get("near")}
    assert near == {("ours", "20dB"), ("ours-2", "20dB"), ("a<b", "15dB")}
    original, anchor = (_bands(stimuli[number]["audio"]) for number in range(2))
    assert anchor[0] == pytest.approx(original[0], rel=0.01)
    assert anchor[1] < 1e-3 * original[1]


def _bands(flac):
    """Energy below 3.3 and above 3.7 kHz."""
    audio, rate = soundfile.read(io.BytesIO(base64.b64decode(flac)))
    power = np.abs(np.fft.rfft(audio)) ** 2
    frequency = np.fft.rfftfreq(len(audio), 1 / rate)
    return power[frequency < 3300].sum(), power[frequency > 3700].sum()


def test_embedded_json_cannot_end_its_element():
    text = _embed(["</script><!--"])
    assert json.loads(text) == ["</script><!--"]
    assert "<" not in text


def test_of_many_settings_the_ends_and_the_nearest_are_heard(evaluated):
    found = load(evaluated)
    points = summarise(found)
    (one,) = [p for p in points if (p.system, p.setting) == ("a<b", "15dB")]
    rates = (1, 2, 2.9, 4, 5)
    many = [dataclasses.replace(one, setting=str(k), kbps=k) for k in rates]
    points = [p for p in points if p.system == "ours"] + many
    shown = _settings(found, points, compared(found, points))
    assert [p.setting for p in shown] == ["0dB", "10dB", "20dB", "1", "2.9", "5"]


def test_plots_are_valid_and_hold_every_point(evaluated):
    text = (evaluated / "rate_distortion.svg").read_text()
    root = ElementTree.fromstring(text)
    titles = [node.text for node in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 2 * (3 + 3 + 2)  # the broken codec has no score
    assert any(title.startswith("a<b 15dB: ") for title in titles)
    assert "NaN" not in text and "nan" not in text


def test_intervals_say_what_was_drawn(evaluated):
    sentence = (
        "drawing anew 3 speakers and 1 clip without a known speaker, each with all its "
        "clips"
    )
    for name in ("report.md", "report.html"):
        assert sentence in (evaluated / name).read_text()
    found = load(evaluated)
    assert len(set(found.speakers.values())) == 4
    clips = found.about["clips"]
    for label, message in (("speaker", "all are of one"), ("corpus", "no speaker is")):
        about = {"clips": [{**clip, "labels": {label: "x"}} for clip in clips]}
        assert message in about_intervals(dataclasses.replace(found, about=about))


def test_a_mean_over_some_clips_says_over_how_many(evaluated):
    """As after a run that was interrupted, or one with more metrics on fewer clips."""
    found = load(evaluated)
    for row in found.rows:
        if row["labels"].get("language") == "nl":  # two clips of four
            row["scores"].pop("mel", None)
    rows = [row for row in found.rows if row["clip"] != "clip1.wav"]
    less = dataclasses.replace(found, rows=rows)
    (scores,) = all_tables(less, summarise(less))["scores"]
    line = next(row for row in scores.rows if row[:2] == ["ours", "20dB"])
    assert line[4] == "3 of 4"
    assert line[5].endswith("[1 failed]") and line[6].endswith(" [on 1]")


def test_failures_are_counted_wherever_a_mean_is(evaluated):
    text = (evaluated / "report.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| ours | 0dB |"))
    assert "[1 failed]" in line  # SI-SDR of silence
    assert "the original is silent" in text
    assert "- left out: text.wav: it cannot be read: " in text
    assert "| codec | broken | the encoder <b>fell over</b> | clip0.wav, " in text
    point = next(p for p in summarise(load(evaluated)) if p.system == "broken")
    assert (point.num_clips, point.num_decoded, point.failed) == (4, 0, {"codec": 4})


def test_tables_say_what_the_rows_say(evaluated):
    with (evaluated / "rows.csv").open() as file:
        lines = list(csv.DictReader(file))
    mine = [x for x in lines if x["system"] == "ours" and x["setting"] == "20dB"]
    assert {x["speaker"] for x in mine} == {"", "s0", "s1", "s2"}
    mean = sum(float(x["mel"]) for x in mine) / len(mine)
    content = json.loads((evaluated / "report.json").read_text())
    (entry,) = [
        x for x in content["summary"] if (x["system"], x["setting"]) == ("ours", "20dB")
    ]
    assert entry["scores"]["mel"]["mean"] == pytest.approx(mean)
    assert entry["scores"]["mel"]["low"] < mean < entry["scores"]["mel"]["high"]
    assert entry["kbps"] == pytest.approx(3, rel=0.01)
    assert entry["encode_speed"] == pytest.approx(5.5 / 4 / 0.5)
    assert (
        f"| ours | 20dB | 3.00 | 20.1 [1 failed] | {mean:.2f} |"
        in (evaluated / "readme.md").read_text()
    )


def test_sections_of_the_page(page):
    sections = {"plots", "listen", "test", "scores", "comparison", "ablations"}
    assert sections | {"groups", "worst", "failures", "cost", "rows"} <= page.ids
    assert "Worst ten clips of ours 20dB" in page.texts["h3"]
    assert "SI-SDR (dB) by language" in page.texts["h3"]


def test_commands_and_what_is_missing_are_told(evaluated, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(evaluated, copy)
    about = json.loads((copy / "about.json").read_text())
    about["missing"] = {"opus": "opus is not installed: get it."}
    (copy / "about.json").write_text(json.dumps(about))
    report(copy, command="jaxcodec evaluate --data elsewhere")
    for name in ("report.md", "report.html"):
        text = (copy / name).read_text()
        assert "opus is not installed: get it." in text
        assert "jaxcodec evaluate --data elsewhere" in text
        assert "a & b" not in text and "a &amp; b" not in text


def test_redrawing_runs_nothing_and_changes_nothing(evaluated, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(evaluated, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    report(copy, tmp_path / "elsewhere")
    assert {path: path.read_bytes() for path in before} == before
    for name in FILES:
        assert (tmp_path / "elsewhere" / name).read_bytes() == before[copy / name], name


def test_no_evaluation(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no evaluation in .* run jaxcodec"):
        report(tmp_path)
