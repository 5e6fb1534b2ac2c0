// Reads .jxc files: header, chunks, checksums; see jaxcodec/bitstream/container.py.
// Damaged files are refused here; the Python reader decodes what is left of them.

import { decodeRange } from "./range_coder.js";

const MAGIC = [0xb7, 0x4a, 0x58, 0x43];

export function isContainer(bytes) {
  return MAGIC.every((byte, i) => bytes[i] === byte);
}

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

function crc16(bytes, crc = 0xffff) {
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++)
      crc = (crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1) & 0xffff;
  }
  return crc;
}

function varintBytes(value) {
  const bytes = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return [...bytes, value];
}

class Cursor {
  constructor(bytes) {
    this.bytes = bytes;
    this.offset = 0;
  }
  get left() {
    return this.bytes.length - this.offset;
  }
  take(count) {
    if (this.left < count) throw new Error("the file ends too early: get another copy.");
    this.offset += count;
    return this.bytes.subarray(this.offset - count, this.offset);
  }
  byte() {
    return this.take(1)[0];
  }
  varint() {
    let value = 0;
    for (let place = 0; place < 6; place++) {
      const byte = this.byte();
      value += (byte & 127) * 2 ** (7 * place); // up to 42 bits: no 32-bit shifts
      if (byte < 128) return value;
    }
    throw new Error("a number is longer than 6 bytes: the file is damaged.");
  }
  saving() {
    const first = this.byte();
    return first < 192 ? first : 64 * this.varint() + first;
  }
  number(size) {
    return this.take(size).reduce((value, byte) => value * 256 + byte, 0);
  }
}

export function readHeader(bytes, cursor = new Cursor(bytes)) {
  if (!isContainer(bytes))
    throw new Error("this is no .jxc file: it does not begin with its magic number.");
  if (bytes[4] !== 1)
    throw new Error(`the format version is ${bytes[4]}, but this page reads 1.`);
  const size = bytes[5];
  const whole = cursor.take(size);
  const sealed = new Cursor(whole.subarray(size - 4)).number(4);
  if (crc32(whole.subarray(0, size - 4)) !== sealed)
    throw new Error("the header does not match its checksum: get another copy.");
  const inner = new Cursor(whole.subarray(0, size - 4));
  inner.take(6);
  const flags = inner.byte();
  const header = { channels: (flags & 7) + 1, numStreams: inner.byte() };
  header.numGroups = inner.varint();
  header.codebookSize = inner.varint();
  header.stride = inner.varint();
  header.chunkFrames = inner.varint();
  header.sampleRate = inner.varint();
  header.originalRate = flags & 32 ? header.sampleRate : inner.varint();
  header.numSamples = flags & 8 ? inner.varint() : null;
  header.fingerprint = [...inner.take(8)]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
  header.codec = new TextDecoder().decode(inner.take(inner.byte()));
  return header;
}

function codeFrames(header, numSamples) {
  const samples = Math.ceil((numSamples * header.sampleRate) / header.originalRate);
  return Math.ceil(samples / header.stride);
}

function unpack(bytes, width, count) {
  const codes = new Int32Array(count);
  let buffer = 0;
  let filled = 0;
  let next = 0;
  for (let i = 0; i < count; i++) {
    for (; filled < width; filled += 8) buffer = buffer * 256 + bytes[next++];
    const rest = 2 ** (filled - width);
    codes[i] = Math.floor(buffer / rest);
    buffer %= rest;
    filled -= width;
  }
  return codes;
}

function readChunk(cursor, header, tables) {
  const begin = cursor.offset;
  cursor.take(2);
  const key = cursor.varint();
  const numFrames = key % 2 ? cursor.varint() : header.chunkFrames;
  const width = Math.ceil(Math.log2(header.codebookSize));
  const count = header.channels * header.numGroups * numFrames;
  const fixed = Math.ceil((count * width) / 8);
  const sizes = Array.from({ length: header.numStreams }, () => fixed - cursor.saving());
  const index = Math.floor(key / 2);
  const sum = crc16(cursor.bytes.subarray(begin, cursor.offset));
  if (cursor.number(2) !== sum) throw new Error(`the header of chunk ${index} is damaged.`);
  const streams = sizes.map((size, stream) => {
    const expected = cursor.number(2);
    const payload = cursor.take(size);
    const start = crc16([stream, ...varintBytes(index)]);
    if (crc16(payload, start) !== expected)
      throw new Error(`chunk ${index}, stream ${stream} is damaged.`);
    if (size === fixed) return unpack(payload, width, count);
    if (!tables) throw new Error("the file is range coded, but the model has no tables.");
    return decodeRange(payload, tables, stream, header.numGroups, count / header.numGroups);
  });
  return { numFrames, streams };
}

// The header, and codes as one Int32Array per channel in the order stream, group, frame.
export function readContainer(bytes, tables) {
  const cursor = new Cursor(bytes);
  const header = readHeader(bytes, cursor);
  const chunks = [];
  while (cursor.left) {
    const second = cursor.bytes[cursor.offset + 1];
    if (cursor.bytes[cursor.offset] !== 0xf5 || (second !== 0x4a && second !== 0x45))
      throw new Error(`no chunk begins at byte ${cursor.offset}: the file is damaged.`);
    if (second === 0x45) {
      cursor.take(2);
      header.numSamples = cursor.varint();
      break;
    }
    chunks.push(readChunk(cursor, header, tables));
  }
  const numFrames = chunks.reduce((sum, chunk) => sum + chunk.numFrames, 0);
  if (header.numSamples === null || codeFrames(header, header.numSamples) !== numFrames)
    throw new Error(`the file holds ${numFrames} code frames, which is not all of it.`);
  const { numStreams, numGroups, channels } = header;
  const codes = Array.from(
    { length: channels },
    () => new Int32Array(numStreams * numGroups * numFrames)
  );
  let done = 0;
  for (const chunk of chunks) {
    chunk.streams.forEach((block, stream) => {
      for (let group = 0; group < numGroups; group++)
        for (let channel = 0; channel < channels; channel++) {
          const from = (group * channels + channel) * chunk.numFrames;
          const to = (stream * numGroups + group) * numFrames + done;
          codes[channel].set(block.subarray(from, from + chunk.numFrames), to);
        }
    });
    done += chunk.numFrames;
  }
  return { header, codes, numFrames };
}
