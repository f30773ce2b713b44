// LayerNorm, softmax and activations, row by row of flat arrays.

// (n, d) x normed; weight and bias are null where they are folded into what follows, eps where there is no norm.
export function layerNorm(x, n, d, norm, eps) {
  if (eps === null) return x.slice(0, n * d);
  const out = new Float32Array(n * d);
  for (let at = 0; at < n * d; at += d) {
    let mean = 0;
    for (let i = at; i < at + d; i++) mean += x[i];
    mean /= d;
    let variance = 0;
    for (let i = at; i < at + d; i++) variance += (x[i] - mean) * (x[i] - mean);
    const scale = 1 / Math.sqrt(variance / d + eps);
    for (let i = 0; i < d; i++) {
      const value = (x[at + i] - mean) * scale;
      out[at + i] = norm ? value * norm.w[i] + norm.b[i] : value;
    }
  }
  return out;
}

export function softmax(logits) {
  const n = logits.length;
  const out = new Float64Array(n);
  let top = -Infinity;
  for (let i = 0; i < n; i++) if (logits[i] > top) top = logits[i];
  let sum = 0;
  for (let i = 0; i < n; i++) sum += out[i] = Math.exp(logits[i] - top);
  for (let i = 0; i < n; i++) out[i] /= sum;
  return out;
}

const POWERS = Float64Array.from({ length: 2201 }, (_, i) => 2 ** (i - 1100));

// exp(x) to 6e-9 of its value: Taylor's series of what is left of a power of 2. Math.exp is a call out of the loop.
export function exp(x) {
  if (!(x > -700 && x < 700)) return Math.exp(x);
  const power = Math.floor(x * Math.LOG2E + 0.5);
  const r = x - power * Math.LN2;
  const tail = 1 / 24 + r * (1 / 120 + r * (1 / 720 + r / 5040));
  return POWERS[power + 1100] * (1 + r * (1 + r * (0.5 + r * (1 / 6 + r * tail))));
}

export function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

// The error function, to 1.2e-7 (Press et al., Numerical Recipes: erfc by a Chebyshev fit).
function erf(x) {
  const z = Math.abs(x);
  const t = 1 / (1 + 0.5 * z);
  const terms = [
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223,
    0.17087277,
  ];
  let sum = 0;
  for (let i = terms.length - 1; i >= 0; i--) sum = sum * t + terms[i];
  const tail = t * Math.exp(-z * z + sum);
  return x >= 0 ? 1 - tail : tail - 1;
}

function tanhGelu(x) {
  for (let i = 0; i < x.length; i++) {
    const v = x[i];
    x[i] = v / (1 + exp(-1.5957691216057308 * (v + 0.044715 * v * v * v)));
  }
}

// name -> a function that puts it on each number of an array, in place
export const ACTIVATIONS = {
  relu(x) {
    for (let i = 0; i < x.length; i++) if (x[i] < 0) x[i] = 0;
  },
  silu(x) {
    for (let i = 0; i < x.length; i++) x[i] /= 1 + exp(-x[i]);
  },
  gelu(x) {
    for (let i = 0; i < x.length; i++) x[i] *= 0.5 * (1 + erf(x[i] * Math.SQRT1_2));
  },
  gelu_new: tanhGelu,
  gelu_fast: tanhGelu,
  gelu_pytorch_tanh: tanhGelu,
};
