"""The page in a real browser, if one is installed."""

import html
import json
import re
import shutil
import subprocess

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")

# does what a listener does, and leaves what came of it at the end of the page
VISIT = """
<script>
window.addEventListener("error", e => { document.body.dataset.fault = e.message; });
(async () => {
  const out = {saved: []};
  const wait = ms => new Promise(done => setTimeout(done, ms));
  const all = selector => [...document.querySelectorAll(selector)];
  const create = URL.createObjectURL;
  URL.createObjectURL = blob => {
    blob.text().then(text => out.saved.push(text));
    return create(blob);
  };
  const seek = document.getElementById("seek");
  seek.value = 500;
  seek.oninput();
  all("#stimuli .stimulus")[2].click();
  await wait(800);
  document.dispatchEvent(new KeyboardEvent("keydown", {key: "3"}));
  await wait(400);
  out.playing = document.getElementById("play").textContent;
  out.chosen = all("#stimuli .on .name span").map(name => name.textContent);
  out.position = Number.parseFloat(document.getElementById("time").textContent);
  document.querySelector("#abx .count").value = 4;
  document.querySelector("#abx .start").click();
  for (let i = 0; i < 4; i++) document.querySelector("#abx [data-answer=a]").click();
  all("#abx .result button")[0].click();
  document.querySelector("#mushra .start").click();
  out.blind = document.querySelector("#mushra .run").textContent;
  out.early = document.querySelector("#mushra .next").disabled;
  for (let page = 0; page < 2; page++) {
    all("#mushra .slider input").forEach((range, i) => {
      range.value = 10 * i;
      range.dispatchEvent(new Event("input"));
    });
    document.querySelector("#mushra .next").click();
  }
  all("#mushra .result button")[0].click();
  all("#scores th")[2].click();
  out.first = document.querySelector("#scores tbody td").textContent;
  document.getElementById("filter").value = "ours-2 20db";
  document.getElementById("filter").oninput();
  out.rows = document.getElementById("count").textContent;
  await wait(200);
  const pre = document.createElement("pre");
  pre.id = "outcome";
  pre.textContent = JSON.stringify(out);
  document.body.append(pre);
})();
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
def test_a_visit(evaluated, tmp_path):
    page = tmp_path / "page.html"
    text = (evaluated / "report.html").read_text()
    page.write_text(text.replace("</body>", VISIT))
    done = subprocess.run(
        [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--autoplay-policy=no-user-gesture-required",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=6000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    body = re.search("<body[^>]*>", done.stdout)[0]
    assert "data-ready" in body and "data-fault" not in body
    found = re.search('<pre id="outcome">(.*?)</pre>', done.stdout, re.S)
    out = json.loads(html.unescape(found[1]))
    assert out["playing"] == "Pause"
    assert out["chosen"] == ["ours 20dB"]
    assert 0.7 <= out["position"] < 1.5  # it went on where the other one was
    abx, mushra = (json.loads(text) for text in out["saved"])
    assert [answer["answer"] for answer in abx["answers"]] == ["a"] * 4
    assert abx["right"] == sum(answer["x"] == "a" for answer in abx["answers"])
    assert out["early"], "a page can be left before every slider was moved"
    assert "ours" not in out["blind"]
    assert {"original", "anchor", "codec"} == {r["role"] for r in mushra["ratings"]}
    assert out["first"] == "ours"
    assert out["rows"] == "4 rows"
