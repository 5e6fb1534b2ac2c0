"use strict";
if (data.examples.length) {
  const [clip, play, seek, time, loop, grid] =
    ["clip", "play", "seek", "time", "loop", "stimuli"].map(id => document.getElementById(id));
  let shown = [];
  let current = null;

  const player = new Player(p => {
    const seconds = data.examples[clip.value].seconds;
    const place = Math.min(p.position / seconds, 1);
    seek.value = Math.round(1000 * place);
    time.textContent = `${p.position.toFixed(1)} / ${seconds.toFixed(1)} s`;
    play.textContent = p.playing ? "Pause" : "Play";
    grid.querySelectorAll(".picture b").forEach(b => { b.style.left = `${100 * place}%`; });
  });
  players.push(player);

  const choose = (stimulus, start) => {
    current = stimulus;
    grid.querySelectorAll(".stimulus").forEach((card, i) => card.classList.toggle("on", shown[i] === stimulus));
    if (start || player.playing) { solo(player); player.play(stimulus); }
  };

  const show = () => {
    player.stop(0);
    const example = data.examples[clip.value];
    shown = example.stimuli.filter(s => s.role !== "anchor");
    grid.replaceChildren(...shown.map((stimulus, i) => {
      const score = stimulus.scores && stimulus.scores[data.primary];
      const rate = stimulus.kbps ? `${stimulus.kbps.toFixed(2)} kbit/s` : "";
      const card = element("button", {className: "stimulus", title: stimulus.scores ? Object.entries(stimulus.scores).map(e => e.join(" ")).join("\n") : ""},
        element("div", {className: "name"}, element("span", {}, nameOf(stimulus)), element("i", {}, i < 10 ? String(i) : "")),
        element("div", {className: "score"}, score ? `${data.primary} ${score} · ${rate}` : rate || "as recorded"),
        element("div", {className: "picture"}, element("img", {src: stimulus.image, alt: `spectrogram of ${nameOf(stimulus)}`}), element("b", {})));
      card.style.setProperty("--c", data.colours[stimulus.system] || "var(--key)");
      card.onclick = () => choose(stimulus, true);
      return card;
    }));
    choose(shown[0], false);
    player.onTick(player);
  };

  clip.append(...data.examples.map((example, i) =>
    element("option", {value: i}, example.labels ? `${example.name} (${example.labels})` : example.name)));
  clip.onchange = show;
  play.onclick = () => { if (player.playing) player.stop(); else { solo(player); player.play(current); } };
  loop.onchange = () => { player.loop = loop.checked; if (player.playing) player.play(current); };
  const move = seconds => { if (player.playing) player.play(current, seconds); else player.stop(seconds); };
  seek.oninput = () => move(seek.value / 1000 * data.examples[clip.value].seconds);
  document.addEventListener("keydown", event => {
    if (/INPUT|SELECT|TEXTAREA/.test(event.target.tagName) && event.target.type !== "range") return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const number = Number.parseInt(event.key, 10);
    if (event.key === " ") play.click();
    else if (event.key === "ArrowRight") move(Math.min(player.position + 1, data.examples[clip.value].seconds));
    else if (event.key === "ArrowLeft") move(Math.max(player.position - 1, 0));
    else if (shown[number]) choose(shown[number], true);
    else return;
    event.preventDefault();
  });
  show();
}
