// The page: a file comes in, is decoded at the chosen rate, heard and seen.
//
// ?model=FOLDER names the exported folder (default: model). For the test, ?file=URL
// opens a file, ?streams=K sets the slider, and ?report=URL is sent the samples.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { Codec } from "./codec.js";
import { readContainer } from "./container.js";
import { drawSpectrogram } from "./spectrogram.js";

const query = new URLSearchParams(location.search);
const find = (selector) => document.querySelector(selector);
const drop = find("#drop");
const slider = find("#streams");
let codec;
let current; // {name, coded: one per channel, numSamples, bytes, original, peak}
let work = Promise.resolve(); // one task after another

function say(message, isError = false) {
  find("#status").textContent = message;
  find("#status").classList.toggle("error", isError);
}

// Runs a task behind those before it, and shows what goes wrong.
function enqueue(task) {
  work = work.then(task).catch(async (error) => {
    say(error.message, true);
    if (query.has("report"))
      await fetch(`${query.get("report")}?error=${encodeURIComponent(error.stack)}`, { method: "POST" });
  });
  return work;
}

async function open(name, buffer) {
  say(`reading ${name}…`);
  current = name.endsWith(".jxc") ? openCoded(name, buffer) : await openAudio(name, buffer);
  slider.max = current.coded[0].numStreams;
  slider.value = Math.min(query.get("streams") ?? slider.max, slider.max);
  find("#original").hidden = !current.original;
  find("#result").hidden = false;
  if (current.original) current.peak = show("#original", [current.original]);
  await decode();
}

function openCoded(name, buffer) {
  const bytes = new Uint8Array(buffer);
  const { header, codes, numFrames } = readContainer(bytes, codec.tables);
  if (header.fingerprint !== codec.manifest.fingerprint)
    throw new Error(
      `${name} was coded by ${header.codec} ${header.fingerprint}, but this page has ` +
        `${codec.manifest.model} ${codec.manifest.fingerprint}: export the model that wrote it.`
    );
  const coded = codes.map((own) => ({ codes: own, numFrames, numStreams: header.numStreams }));
  const seconds = header.numSamples / header.originalRate;
  const numSamples = Math.round(seconds * header.sampleRate);
  return { name, coded, numSamples, rate: (8 * bytes.length) / seconds };
}

async function openAudio(name, buffer) {
  // decodeAudioData resamples to the rate of its context
  const context = new OfflineAudioContext(1, 1, codec.layout.sample_rate);
  const audio = await context.decodeAudioData(buffer).catch(() => {
    throw new Error(`${name} is no audio that this browser reads: give it a WAV file.`);
  });
  const original = audio.getChannelData(0); // the first channel
  const coded = await codec.encode(original, (part) => say(`encoding ${Math.round(100 * part)} %`));
  return { name, coded: [coded], numSamples: original.length, original };
}

async function decode() {
  const keep = Number(slider.value);
  const rate = codec.manifest.bitrates[keep - 1] / 1000;
  find("#rate").textContent = `${keep} of ${slider.max} streams: ${rate} kbit/s per channel`;
  const begun = performance.now();
  const channels = [];
  for (const coded of current.coded)
    channels.push(
      await codec.decode(coded, keep, current.numSamples, (part) =>
        say(`decoding ${Math.round(100 * part)} %`)
      )
    );
  show("#decoded", channels, current.peak);
  const seconds = current.numSamples / codec.layout.sample_rate;
  const size = current.rate ? `, a file of ${(current.rate / 1000).toFixed(2)} kbit/s` : "";
  const speed = seconds / (Math.max(performance.now() - begun, 1) / 1000);
  say(`${current.name}: ${seconds.toFixed(2)} s${size}; decoded at ${speed.toFixed(1)} times real time`);
  if (query.has("report"))
    await fetch(query.get("report"), { method: "POST", body: new Float32Array(channels[0]) });
}

function show(selector, channels, peak = null) {
  const rate = codec.layout.sample_rate;
  find(`${selector} audio`).src = URL.createObjectURL(wav(channels, rate));
  return drawSpectrogram(find(`${selector} canvas`), channels[0], rate, peak);
}

function wav(channels, rate) {
  const count = channels[0].length * channels.length;
  const view = new DataView(new ArrayBuffer(44 + 2 * count));
  const text = (at, word) => [...word].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * count, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, channels.length, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate * channels.length, true);
  view.setUint16(32, 2 * channels.length, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * count, true);
  for (let i = 0; i < channels[0].length; i++)
    channels.forEach((samples, c) => {
      const value = Math.max(-32768, Math.min(32767, Math.round(32768 * samples[i])));
      view.setInt16(44 + 2 * (i * channels.length + c), value, true);
    });
  return new Blob([view], { type: "audio/wav" });
}

const take = (file) => file && enqueue(async () => open(file.name, await file.arrayBuffer()));
find("#file").addEventListener("change", (event) => take(event.target.files[0]));
slider.addEventListener("change", () => enqueue(decode));
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files[0]);
});

ort.env.wasm.numThreads = 1; // more need headers that static hosts do not send
enqueue(async () => {
  codec = await Codec.load(ort, query.get("model") ?? "model");
  say(`${codec.manifest.model} is loaded: drop a file.`);
  if (query.has("file")) {
    const name = query.get("file");
    await open(name, await (await fetch(name)).arrayBuffer());
  }
});
