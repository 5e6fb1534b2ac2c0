// The page: a file comes in, is decoded at the chosen rate, heard and seen.
//
// ?model=FOLDER names the exported folder (default: model). For the test, ?file=URL
// opens a file, ?streams=K sets the slider, and ?report=URL is sent the samples.

import { Codec } from "./codec.js";
import { isContainer, readContainer, readHeader } from "./container.js";
import { drawSpectrogram } from "./spectrogram.js";

const RUNTIME = "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
const MOST_CHANNELS = 8; // of a .jxc file
const query = new URLSearchParams(location.search);
const find = (selector) => document.querySelector(selector);
const drop = find("#drop");
const slider = find("#streams");
let codec;
let failure; // of loading it
let current; // {name, coded: one per channel, numSamples, rate, originals, peak}
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
  if (failure) throw failure;
  say(`reading ${name}…`);
  const bytes = new Uint8Array(buffer);
  // what it holds counts, not what it is called
  const isCoded = isContainer(bytes) || name.toLowerCase().endsWith(".jxc");
  current = isCoded ? openCoded(name, bytes) : await openAudio(name, buffer);
  slider.max = current.coded[0].numStreams;
  slider.value = Math.min(query.get("streams") ?? slider.max, slider.max);
  find("#original").hidden = !current.originals;
  find("#result").hidden = false;
  if (current.originals) current.peak = show("#original", current.originals);
  await decode();
}

function openCoded(name, bytes) {
  const { fingerprint, codec: writer } = readHeader(bytes);
  const { model, fingerprint: ours } = codec.manifest;
  if (fingerprint !== ours)
    throw new Error(
      `${name} was coded by ${writer} ${fingerprint}, but this page has ${model} ${ours}: ` +
        "export the model that wrote it."
    );
  const { header, codes, numFrames } = readContainer(bytes, codec.tables);
  if (!header.numSamples) throw new Error(`${name} holds no sound.`);
  const coded = codes.map((own) => ({ codes: own, numFrames, numStreams: header.numStreams }));
  const seconds = header.numSamples / header.originalRate;
  const numSamples = Math.round(seconds * header.sampleRate);
  return { name, coded, numSamples, rate: (8 * bytes.length) / seconds };
}

async function openAudio(name, buffer) {
  // decodeAudioData resamples to the rate of its context
  const context = new OfflineAudioContext(1, 1, codec.layout.sample_rate);
  const audio = await context.decodeAudioData(buffer).catch(() => {
    throw new Error(
      `${name} is neither a .jxc file nor audio that this browser reads: give it a WAV file.`
    );
  });
  if (!audio.length) throw new Error(`${name} holds no sound.`);
  const count = Math.min(audio.numberOfChannels, MOST_CHANNELS);
  const originals = Array.from({ length: count }, (_, i) => audio.getChannelData(i));
  const coded = [];
  for (const original of originals)
    coded.push(
      await codec.encode(original, (part) =>
        say(`encoding ${Math.round((100 * (coded.length + part)) / count)} %`)
      )
    );
  return { name, coded, numSamples: audio.length, originals };
}

function showRate() {
  const rate = codec.manifest.bitrates[slider.value - 1] / 1000;
  const each = current.coded.length > 1 ? " per channel" : "";
  find("#rate").textContent = `${slider.value} of ${slider.max} streams: ${rate} kbit/s${each}`;
}

async function decode() {
  const keep = Number(slider.value);
  showRate();
  const begun = performance.now();
  const channels = [];
  for (const coded of current.coded)
    channels.push(
      await codec.decode(coded, keep, current.numSamples, (part) =>
        say(`decoding ${Math.round((100 * (channels.length + part)) / current.coded.length)} %`)
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
  const audio = find(`${selector} audio`);
  const { currentTime, paused } = audio; // playing goes on where it was
  URL.revokeObjectURL(audio.src);
  audio.src = URL.createObjectURL(wav(channels, rate));
  if (audio.dataset.name === current.name) {
    audio.currentTime = currentTime;
    if (!paused) audio.play();
  }
  audio.dataset.name = current.name;
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
find("#file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = ""; // or the same file could not be chosen again
});
slider.addEventListener("input", showRate);
slider.addEventListener("change", () => enqueue(decode));
// anywhere on the page: beside the box, a browser would leave the page for the file
addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
addEventListener("dragleave", () => drop.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files[0]);
});

async function load() {
  const ort = await import(RUNTIME).catch(() => {
    throw new Error("onnxruntime-web is missing: run npm install in the folder of this page.");
  });
  ort.env.wasm.numThreads = 1; // more need headers that static hosts do not send
  codec = await Codec.load(ort, query.get("model") ?? "model");
  say(`${codec.manifest.model} is loaded: drop a file.`);
}

enqueue(async () => {
  await load().catch((error) => {
    failure = error;
    throw error;
  });
  if (query.has("file")) {
    const name = query.get("file");
    await open(name, await (await fetch(name)).arrayBuffer());
  }
});
