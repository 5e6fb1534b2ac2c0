// Range decoding from integer tables; see jaxcodec/bitstream/range_coder.py.

const PRECISION = 24n;

// tables: {frequencies, shape: [streams, groups, codes]}; returns codes group by group.
export function decodeRange(bytes, tables, stream, numGroups, perGroup) {
  const [, groups, size] = tables.shape;
  let next = 0;
  const word = () => {
    let value = 0;
    for (let i = 0; i < 4; i++) value = value * 256 + (bytes[next++] ?? 0);
    return BigInt(value);
  };
  const codes = new Int32Array(numGroups * perGroup);
  let ahead = (word() << 32n) | word(); // the number read, less the interval's low end
  let range = (1n << 64n) - 1n;
  for (let group = 0; group < numGroups; group++) {
    const begin = (stream * groups + group) * size;
    const cumulative = cumulate(tables.frequencies.subarray(begin, begin + size));
    for (let i = 0; i < perGroup; i++) {
      const scale = range >> PRECISION;
      const place = ahead / scale;
      if (place >= 1n << PRECISION)
        throw new Error("range-coded bytes fit no codes: is the model another one?");
      const code = search(cumulative, Number(place));
      codes[group * perGroup + i] = code;
      ahead -= scale * BigInt(cumulative[code]);
      range = scale * BigInt(cumulative[code + 1] - cumulative[code]);
      while (range < 1n << 32n) {
        ahead = (ahead << 32n) | word();
        range <<= 32n;
      }
    }
  }
  return codes;
}

function cumulate(frequencies) {
  const total = frequencies.reduce((sum, f) => sum + f, 0);
  const unit = 2 ** 24 / total;
  const cumulative = new Float64Array(frequencies.length + 1);
  frequencies.forEach((f, i) => (cumulative[i + 1] = cumulative[i] + f * unit));
  return cumulative;
}

// The last index whose cumulative is at most `place`.
function search(cumulative, place) {
  let low = 0;
  let high = cumulative.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (cumulative[middle] <= place) low = middle;
    else high = middle;
  }
  return low;
}
