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
  let top = -Infinity;
  for (const value of logits) if (value > top) top = value;
  const out = Float64Array.from(logits, (value) => Math.exp(value - top));
  let sum = 0;
  for (const value of out) sum += value;
  return out.map((value) => value / sum);
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

const tanhGelu = (x) => x / (1 + Math.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)));

export const ACTIVATIONS = {
  relu: (x) => (x > 0 ? x : 0),
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  gelu_new: tanhGelu,
  gelu_fast: tanhGelu,
  gelu_pytorch_tanh: tanhGelu,
};
