"use strict";
/* How likely k or more of n right answers are by guessing. */
function guessing(k, n) {
  let total = 0, ways = 1;
  for (let i = 0; i <= n; i++) {
    if (i >= k) total += ways;
    ways = ways * (n - i) / (i + 1);
  }
  return total / 2 ** n;
}

function stamp() { return new Date().toISOString().replace(/[:.]/g, "-").slice(0, 19); }

if (data.examples.length) {
  const player = new Player();
  players.push(player);
  const hear = stimulus => { solo(player); if (stimulus) player.play(stimulus); else player.stop(0); };
  const find = (example, name) => example.stimuli.find(s => nameOf(s) === name);
  const names = [...new Set(data.examples.flatMap(e => e.stimuli.map(nameOf)))];
  const nearest = data.examples[0].stimuli.filter(s => s.near).map(nameOf);
  const parts = (id, ...classes) => classes.map(c => document.querySelector(`#${id} .${c}`));

  /* ABX */
  {
    const [setup, a, b, count, start, run, state, result] =
      parts("abx", "setup", "a", "b", "count", "start", "run", "state", "result");
    for (const [select, initial] of [[a, names[0]], [b, nearest[0] || names[1]]]) {
      select.append(...names.map(name => element("option", {value: name}, name)));
      select.value = initial;
    }
    let trials = [], answers = [];
    const show = () => {
      hear(null);
      const left = answers.length < trials.length;
      run.hidden = !left;
      setup.hidden = left;
      if (left) { state.textContent = `Trial ${answers.length + 1} of ${trials.length}, clip ${trials[answers.length].example.name}`; return; }
      const right = answers.filter(answer => answer.right).length;
      const p = guessing(right, answers.length);
      const content = {test: "ABX", a: a.value, b: b.value, right, trials: answers.length, p_value: p, answers, finished: new Date().toISOString()};
      const button = element("button", {className: "main"}, "Save answers");
      button.onclick = () => save(`abx-${stamp()}.json`, "application/json", JSON.stringify(content, null, 1));
      result.replaceChildren(element("p", {}, `${right} of ${answers.length} right; by guessing, so many or more happen with probability ${p.toPrecision(2)}.`), button);
    };
    start.onclick = () => {
      const usable = data.examples.filter(e => find(e, a.value) && find(e, b.value));
      if (a.value === b.value || !usable.length) { result.replaceChildren(element("p", {}, "Choose two different codecs.")); return; }
      const n = Math.min(Math.max(Math.round(Number(count.value)) || 12, 1), 100);
      trials = Array.from({length: n}, (_, i) => ({example: usable[i % usable.length], x: Math.random() < 0.5 ? "a" : "b"}));
      answers = [];
      result.replaceChildren();
      show();
    };
    run.addEventListener("click", event => {
      const trial = trials[answers.length];
      const {play, answer} = event.target.dataset;
      if (play !== undefined) {
        const side = play === "x" ? trial.x : play;
        hear(play ? find(trial.example, side === "a" ? a.value : b.value) : null);
      } else if (answer) {
        answers.push({clip: trial.example.name, x: trial.x, answer, right: answer === trial.x});
        show();
      }
    });
  }

  /* MUSHRA */
  {
    const [setup, choices, who, start, run, state, sliders, next, result] =
      parts("mushra", "setup", "choices", "who", "start", "run", "state", "sliders", "next", "result");
    const codecs = names.filter(name => data.examples[0].stimuli.some(s => nameOf(s) === name && s.role === "codec"));
    const preset = new Set(nearest.length ? nearest : codecs);
    choices.append(...codecs.map(name => element("label", {}, element("input", {type: "checkbox", value: name, checked: preset.has(name)}), ` ${name}`)));
    let pages = [], ratings = [], touched = new Set();
    const show = () => {
      hear(null);
      const left = ratings.length < pages.length;
      run.hidden = !left;
      setup.hidden = left;
      if (!left) { finish(); return; }
      const page = pages[ratings.length];
      touched = new Set();
      next.disabled = true;
      state.textContent = `Clip ${ratings.length + 1} of ${pages.length}: ${page.example.name}. Move every slider.`;
      sliders.replaceChildren(...page.order.map((stimulus, i) => {
        const value = element("span", {}, "–");
        const range = element("input", {type: "range", min: 0, max: 100, value: 50});
        range.oninput = range.onchange = () => {
          value.textContent = range.value;
          touched.add(i);
          next.disabled = touched.size < page.order.length;
        };
        const button = element("button", {}, `Play ${i + 1}`);
        button.onclick = () => hear(stimulus);
        return element("div", {className: "slider"}, button, range, value);
      }));
    };
    const finish = () => {
      const rows = ratings.flat();
      const means = names.map(name => {
        const scores = rows.filter(row => row.codec === name).map(row => row.score);
        return scores.length ? `${name}: ${(scores.reduce((x, y) => x + y) / scores.length).toFixed(0)}` : null;
      }).filter(Boolean);
      const content = {test: "MUSHRA", listener: who.value, finished: new Date().toISOString(), ratings: rows};
      const cell = text => `"${String(text).replace(/"/g, '""')}"`;
      const csv = ["listener,clip,codec,role,score", ...rows.map(r => [who.value, r.clip, r.codec, r.role, r.score].map(cell).join(","))].join("\n") + "\n";
      const json = element("button", {className: "main"}, "Save answers");
      json.onclick = () => save(`mushra-${stamp()}.json`, "application/json", JSON.stringify(content, null, 1));
      const table = element("button", {}, "Save as CSV");
      table.onclick = () => save(`mushra-${stamp()}.csv`, "text/csv", csv);
      result.replaceChildren(element("p", {}, means.join(" · ")), element("div", {className: "bar"}, json, table));
    };
    start.onclick = () => {
      const chosen = new Set([...choices.querySelectorAll("input:checked")].map(box => box.value));
      if (!chosen.size) { result.replaceChildren(element("p", {}, "Choose at least one codec.")); return; }
      pages = shuffle(data.examples).map(example => ({example, order: shuffle(example.stimuli.filter(s => s.role !== "codec" || chosen.has(nameOf(s))))}));
      ratings = [];
      result.replaceChildren();
      show();
    };
    run.addEventListener("click", event => {
      const {play} = event.target.dataset;
      if (play !== undefined) hear(play ? pages[ratings.length].example.stimuli[0] : null);
    });
    next.onclick = () => {
      const page = pages[ratings.length];
      const values = [...sliders.querySelectorAll("input")].map(range => Number(range.value));
      ratings.push(page.order.map((s, i) => ({clip: page.example.name, codec: nameOf(s), role: s.role, score: values[i]})));
      show();
    };
  }
}
