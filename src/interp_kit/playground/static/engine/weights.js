// The weights of a page: base64 -> float16 -> float32, by the parameter's name; and edits of them.

export function bytesOf(base64) {
  const text = atob(base64.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function half(word) {
  const sign = word & 0x8000 ? -1 : 1;
  const exponent = (word >> 10) & 31;
  const fraction = word & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

// name -> {shape, data}, from the tensors that the header lists, one after the other.
export function readWeights(tensors, bytes) {
  const found = new Map();
  let at = 0;
  for (const { name, shape, dtype, bytes: size } of tensors) {
    const part = bytes.slice(at, at + size).buffer;
    const data = dtype === "float16" ? Float32Array.from(new Uint16Array(part), half) : new Float32Array(part);
    if (data.length !== shape.reduce((a, b) => a * b, 1)) throw new Error(`the page is damaged: ${name} is cut off`);
    found.set(name, { shape, data });
    at += (size + 3) & ~3;
  }
  if (at !== bytes.length) throw new Error(`the page is damaged: ${bytes.length} bytes of weights, expected ${at}`);
  return found;
}

// Per axis of a weight [from, to): what an edit is about.
export function rangesOf(edit, shape) {
  const ranges = shape.map((size) => [0, size]);
  const narrow = (axis, from, to) => {
    ranges[axis] = [Math.max(from, ranges[axis][0]), Math.min(to, ranges[axis][1])];
  };
  if (edit.head !== null) narrow(0, edit.head, edit.head + 1);
  if (edit.neuron !== null) narrow(shape.length - 1, edit.neuron, edit.neuron + 1);
  (edit.region ?? []).forEach(([from, to], axis) => narrow(axis, from, to));
  return ranges;
}

// Apply a weight edit to a copy of a weight, in place.
export function changeWeight(data, shape, edit) {
  const ranges = rangesOf(edit, shape);
  const { kind, factor, value, scale } = edit.source;
  const walk = (axis, at) => {
    const [from, to] = ranges[axis];
    for (let i = from; i < to; i++) {
      const next = at * shape[axis] + i;
      if (axis < shape.length - 1) walk(axis + 1, next);
      else if (kind === "Zero") data[next] = 0;
      else if (kind === "Scale") data[next] *= factor;
      else if (kind === "Set") data[next] = value;
      else data[next] += scale * Math.fround(value);
    }
  };
  walk(0, 0);
}
