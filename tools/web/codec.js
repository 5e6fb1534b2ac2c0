// An exported ONNX codec in chunks: what jaxcodec/export/portable.py does in NumPy, but
// with a halo at the ends of the signal, too.

const KINDS = { "|u1": Uint8Array, "<u2": Uint16Array, "<u4": Uint32Array };

// Arrays of the .npy format, version 1: little-endian unsigned integers in C order.
export function readNpy(buffer) {
  const size = new DataView(buffer).getUint16(8, true);
  const text = new TextDecoder().decode(new Uint8Array(buffer, 10, size));
  const kind = KINDS[/'descr': '([^']+)'/.exec(text)[1]];
  const shape = /'shape': \(([^)]*)\)/.exec(text)[1].split(",").filter((part) => part.trim());
  return { frequencies: new kind(buffer.slice(10 + size)), shape: shape.map(Number) };
}

async function fetched(url) {
  const answer = await fetch(url);
  if (!answer.ok)
    throw new Error(
      `${url} cannot be read (${answer.status}): put a folder that ` +
        "jaxcodec export --to onnx wrote beside this page, as model."
    );
  return answer;
}

export class Codec {
  // A codec of a folder that `jaxcodec export --to onnx` wrote; `ort` is onnxruntime-web.
  static async load(ort, folder) {
    const codec = new Codec();
    codec.ort = ort;
    codec.manifest = await (await fetched(`${folder}/manifest.json`)).json();
    codec.layout = codec.manifest.layout;
    codec.sessions = {};
    for (const side of ["encoder", "decoder"]) {
      const data = await (await fetched(`${folder}/${codec.manifest[side].file}`)).arrayBuffer();
      codec.sessions[side] = await ort.InferenceSession.create(data);
    }
    if (codec.manifest.files["tables.npy"])
      codec.tables = readNpy(await (await fetched(`${folder}/tables.npy`)).arrayBuffer());
    return codec;
  }

  async run(side, arrays) {
    const inputs = {};
    this.manifest[side].inputs.forEach(({ name, dtype, shape }, i) => {
      inputs[name] = new this.ort.Tensor(dtype, arrays[i], [1, ...shape.slice(1)]);
    });
    const outputs = await this.sessions[side].run(inputs);
    return outputs[this.manifest[side].outputs[0].name].data;
  }

  // Codes of samples at the codec's rate: {codes, numFrames, numStreams}.
  async encode(waveform, progress = () => {}) {
    const { stride, hop, window } = this.layout;
    const { before, core, after } = this.manifest.encoder.chunk;
    const streams = this.manifest.encoder.streams;
    const lines = streams * this.manifest.codes.groups;
    const total = before + core + after;
    const numFrames = Math.ceil(waveform.length / stride);
    const half = window / 2;
    const tail = numFrames * stride + half + hop - waveform.length;
    const lead = before * stride;
    const codes = new Int32Array(lines * numFrames);
    for (let first = 0; first < numFrames; first += core) {
      const chunk = new Float32Array(total * stride - hop);
      for (let i = 0; i < chunk.length; i++) {
        const place = first * stride - lead + i;
        if (place >= -half && place < waveform.length + tail)
          chunk[i] = waveform[mirror(place, waveform.length)];
      }
      const present = presence(first - before, total, numFrames);
      const made = await this.run("encoder", [chunk, present]);
      const count = Math.min(core, numFrames - first);
      for (let line = 0; line < lines; line++) {
        const from = line * total + before;
        codes.set(made.subarray(from, from + count), line * numFrames + first);
      }
      progress(Math.min(first + core, numFrames) / numFrames);
    }
    return { codes, numFrames, numStreams: streams };
  }

  // Samples at the codec's rate from the first `keep` streams of codes.
  async decode({ codes, numFrames, numStreams }, keep, numSamples, progress = () => {}) {
    const { stride } = this.layout;
    const { before, core, after } = this.manifest.decoder.chunk;
    const { streams, groups } = this.manifest.codes;
    const total = before + core + after;
    const used = Math.min(keep, numStreams);
    const waveform = new Float32Array(numFrames * stride);
    for (let first = 0; first < numFrames; first += core) {
      const begin = first - before;
      const chunk = new Int32Array(streams * groups * total);
      const counts = new Int32Array(total);
      const from = Math.max(begin, 0);
      const to = Math.min(begin + total, numFrames);
      counts.fill(used, from - begin, to - begin);
      for (let line = 0; line < used * groups; line++) {
        const row = codes.subarray(line * numFrames + from, line * numFrames + to);
        chunk.set(row, line * total + from - begin);
      }
      const present = presence(begin, total, numFrames);
      const made = await this.run("decoder", [chunk, counts, present]);
      const count = Math.min(core, numFrames - first) * stride;
      const core_begin = before * stride;
      waveform.set(made.subarray(core_begin, core_begin + count), first * stride);
      progress(Math.min(first + core, numFrames) / numFrames);
    }
    return waveform.subarray(0, numSamples);
  }
}

// Index of the sample that a place outside the signal mirrors.
function mirror(place, size) {
  const period = Math.max(2 * (size - 1), 1);
  const turned = ((place % period) + period) % period;
  return turned < size ? turned : period - turned;
}

function presence(begin, total, numFrames) {
  return Float32Array.from({ length: total }, (_, i) =>
    begin + i >= 0 && begin + i < numFrames ? 1 : 0
  );
}
