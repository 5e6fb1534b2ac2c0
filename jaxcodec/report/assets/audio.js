"use strict";
const data = JSON.parse(document.getElementById("data").textContent);

/* Plays one of several recordings of the same clip, and switches without a gap. */
class Player {
  constructor(onTick) {
    this.context = null;
    this.buffers = new Map();
    this.source = null;
    this.stimulus = null;
    this.offset = 0;
    this.loop = true;
    this.onTick = onTick || (() => {});
  }

  async buffer(stimulus) {
    if (!this.context) this.context = new AudioContext();
    if (!this.buffers.has(stimulus)) {
      const bytes = Uint8Array.from(atob(stimulus.audio), c => c.charCodeAt(0));
      this.buffers.set(stimulus, this.context.decodeAudioData(bytes.buffer));
    }
    return this.buffers.get(stimulus);
  }

  get playing() { return this.source !== null; }

  get duration() { return this.length || 0; }

  get position() {
    if (!this.source) return this.offset;
    const gone = this.context.currentTime - this.started;
    return this.loop ? gone % this.length : Math.min(gone, this.length);
  }

  async play(stimulus, from) {
    const wanted = this.wanted = {};
    const buffer = await this.buffer(stimulus);
    if (wanted !== this.wanted) return;
    await this.context.resume();
    const at = (from === undefined ? this.position : from) % buffer.duration;
    this.fade();
    const source = this.context.createBufferSource();
    const gain = this.context.createGain();
    source.buffer = buffer;
    source.loop = this.loop;
    source.connect(gain).connect(this.context.destination);
    const now = this.context.currentTime;
    gain.gain.setValueAtTime(0, now);
    gain.gain.linearRampToValueAtTime(1, now + 0.01);
    source.start(now, at);
    source.onended = () => { if (this.source === source) this.stop(0); };
    Object.assign(this, {source, gain, stimulus, length: buffer.duration, started: now - at});
    this.tick();
  }

  fade() {
    if (!this.source) return;
    const now = this.context.currentTime;
    this.source.onended = null;
    this.gain.gain.setTargetAtTime(0, now, 0.004);
    this.source.stop(now + 0.03);
    this.source = null;
  }

  stop(offset) {
    this.wanted = {};
    this.offset = offset === undefined ? this.position : offset;
    this.fade();
    this.onTick(this);
  }

  tick() {
    this.onTick(this);
    if (this.source) requestAnimationFrame(() => this.tick());
  }
}

/* Only one player is heard at a time. */
const players = [];
function solo(player) { players.forEach(p => p !== player && p.playing && p.stop()); }

const nameOf = s => s.setting ? `${s.system} ${s.setting}` : s.system;

function shuffle(list) {
  const made = [...list];
  for (let i = made.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [made[i], made[j]] = [made[j], made[i]];
  }
  return made;
}

function save(name, kind, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: kind}));
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, attributes);
  made.append(...children);
  return made;
}
