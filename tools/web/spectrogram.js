// Spectrograms on a canvas: Hann windows of 32 ms, 0 to -80 dB of the loudest cell.

const SIZE = 512;
const HOP = 128;
const FLOOR = -80; // dB

export function drawSpectrogram(canvas, waveform, sampleRate, peak = null) {
  const columns = Math.max(1, Math.floor((waveform.length - SIZE) / HOP) + 1);
  const cells = new Float32Array(columns * (SIZE / 2));
  const real = new Float64Array(SIZE);
  const imag = new Float64Array(SIZE);
  for (let t = 0; t < columns; t++) {
    for (let i = 0; i < SIZE; i++) {
      const hann = 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE);
      real[i] = hann * (waveform[t * HOP + i] ?? 0);
      imag[i] = 0;
    }
    fft(real, imag);
    for (let f = 0; f < SIZE / 2; f++)
      cells[t * (SIZE / 2) + f] = real[f] ** 2 + imag[f] ** 2;
  }
  const loudest = peak ?? cells.reduce((a, b) => Math.max(a, b), 1e-12);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let x = 0; x < canvas.width; x++) {
    const t = Math.min(columns - 1, Math.floor((x / canvas.width) * columns));
    for (let y = 0; y < canvas.height; y++) {
      const f = Math.floor(((canvas.height - 1 - y) / canvas.height) * (SIZE / 2));
      const level = 10 * Math.log10(cells[t * (SIZE / 2) + f] / loudest + 1e-12);
      const place = Math.max(0, Math.min(1, 1 - level / FLOOR));
      image.data.set([...colour(place), 255], 4 * (y * canvas.width + x));
    }
  }
  context.putImageData(image, 0, 0);
  return loudest; // to draw another on the same scale
}

// Black, violet, orange, pale yellow.
function colour(place) {
  const stops = [[4, 4, 20], [90, 25, 110], [225, 95, 45], [252, 250, 200]];
  const at = place * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((from, i) => from + (at - low) * (stops[low + 1][i] - from));
}

function fft(real, imag) {
  for (let i = 1, j = 0; i < SIZE; i++) {
    let bit = SIZE >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imag[i], imag[j]] = [imag[j], imag[i]];
    }
  }
  for (let length = 2; length <= SIZE; length *= 2) {
    for (let begin = 0; begin < SIZE; begin += length) {
      for (let k = 0; k < length / 2; k++) {
        const angle = (-2 * Math.PI * k) / length;
        const a = begin + k;
        const b = a + length / 2;
        const turnedReal = real[b] * Math.cos(angle) - imag[b] * Math.sin(angle);
        const turnedImag = real[b] * Math.sin(angle) + imag[b] * Math.cos(angle);
        [real[b], imag[b]] = [real[a] - turnedReal, imag[a] - turnedImag];
        [real[a], imag[a]] = [real[a] + turnedReal, imag[a] + turnedImag];
      }
    }
  }
}
