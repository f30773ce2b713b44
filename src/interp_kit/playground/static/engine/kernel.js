// Products of activations with weights. Weights lie in one memory in panels of 8 columns, so that both a plain
// JavaScript loop and a small WebAssembly one (four numbers at a time, assembled below) can run over them in order.

const PANEL = 8; // columns of a panel
const ROWS = 4; // rows of activations that go through it together
const CHUNK = 64; // rows that are copied in at once
const PAGE = 65536; // bytes of a page of WebAssembly memory

const leb = (n) => {
  const bytes = [];
  do {
    bytes.push((n & 127) | (n > 127 ? 128 : 0));
    n >>>= 7;
  } while (n);
  return bytes;
};
const section = (id, body) => [id, ...leb(body.length), ...body];
const name = (text) => [text.length, ...[...text].map((c) => c.charCodeAt(0))];

// product(x, w, y, blocks of 4 rows, inner, panels, b): y = x w + b, with y in rows of 8 * panels numbers, as many as b has.
// fused: multiply and add in one instruction, of "relaxed SIMD", which not every browser has.
function assemble(fused) {
  const [X, W, Y, BLOCKS, INNER, PANELS, B] = [0, 1, 2, 3, 4, 5, 6];
  const [R, XP, WP, K, YP, XS, YS] = [7, 8, 9, 10, 11, 12, 13]; // counters, pointers, strides
  const at = [14, 15, 16, 17]; // pointers to four rows of x
  const sum = [18, 19, 20, 21, 22, 23, 24, 25]; // four rows of two vectors
  const [W0, W1, XV] = [26, 27, 28];
  const get = (i) => [0x20, i];
  const set = (i) => [0x21, i];
  const int = (n) => [0x41, n]; // n below 64
  const simd = (code) => [0xfd, ...leb(code)];
  const [load, splat, store] = [simd(0), simd(9), simd(11)];
  const [add, mul] = [simd(0xe4), simd(0xe6)];
  const added = (w, to) =>
    fused ? [...get(XV), ...get(w), ...get(to), ...simd(0x105)] : [...get(to), ...get(XV), ...get(w), ...mul, ...add];
  const plus = (i, ...what) => [...get(i), ...what.flat(), 0x6a, ...set(i)];
  const countdown = (i, depth) => [...get(i), ...int(1), 0x6b, 0x22, i, 0x0d, depth];
  const loop = (...body) => [0x03, 0x40, ...body.flat(), 0x0b];
  const step = at.map((a, i) => [
    ...get(a), ...splat, 2, 0, ...set(XV),
    ...[W0, W1].flatMap((w, j) => [...added(w, sum[2 * i + j]), ...set(sum[2 * i + j])]),
    ...plus(a, int(4)),
  ]);
  const inner = loop(
    [...get(WP), ...load, 4, 0, ...set(W0), ...get(WP), ...load, 4, 16, ...set(W1)],
    ...step, plus(WP, int(32)), countdown(K, 0),
  );
  const rows = loop(
    get(XP), set(at[0]),
    ...[1, 2, 3].map((i) => [...get(at[i - 1]), ...get(XS), 0x6a, ...set(at[i])]),
    get(W), set(WP), get(INNER), set(K), ...sum.map((s, i) => [...get(B), ...load, 4, 16 * (i % 2), ...set(s)]),
    inner,
    ...[0, 1, 2, 3].map((i) => [
      ...get(YP), ...get(sum[2 * i]), ...store, 4, 0, ...get(YP), ...get(sum[2 * i + 1]), ...store, 4, 16,
      ...plus(YP, get(YS)),
    ]),
    get(at[3]), set(XP), countdown(R, 0),
  );
  const code = [
    ...get(INNER), ...int(4), 0x6c, ...set(XS), ...get(PANELS), ...int(32), 0x6c, ...set(YS),
    ...loop(
      get(Y), set(YP), get(X), set(XP), get(BLOCKS), set(R),
      rows, get(WP), set(W), plus(Y, int(32)), plus(B, int(32)), countdown(PANELS, 0),
    ),
    0x0b,
  ];
  const body = [2, 11, 0x7f, 11, 0x7b, ...code]; // 11 i32 and 11 v128 locals beside the 7 parameters
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, [1, 0x60, 7, ...Array(7).fill(0x7f), 0]),
    ...section(2, [1, ...name("e"), ...name("m"), 2, 0, 1]),
    ...section(3, [1, 0]),
    ...section(7, [1, ...name("product"), 0, 0]),
    ...section(10, [1, ...leb(body.length), ...body]),
  ]);
}

export class Kernel {
  // simd: whether to use WebAssembly; plain JavaScript where the browser has none.
  constructor(simd = true) {
    this.memory = null;
    this.native = null;
    if (simd && typeof WebAssembly !== "undefined") {
      const code = [true, false].map(assemble).find((bytes) => WebAssembly.validate(bytes)); // none: the plain loop serves
      if (code) {
        this.memory = new WebAssembly.Memory({ initial: 1 });
        const made = new WebAssembly.Instance(new WebAssembly.Module(code), { e: { m: this.memory } });
        this.native = made.exports.product;
      }
    }
    this.heap = this.memory ? new Float32Array(this.memory.buffer) : new Float32Array(PAGE / 4);
    this.end = 0; // floats in use
    this.scratch = this._take(0);
  }

  // Room for n numbers, in multiples of 16 bytes. Views of `heap` may be stale afterwards.
  _take(n) {
    const at = this.end;
    this.end += (n + 3) & ~3;
    if (this.end > this.heap.length) {
      if (this.memory) {
        this.memory.grow(Math.ceil(((this.end - this.heap.length) * 4) / PAGE));
        this.heap = new Float32Array(this.memory.buffer);
      } else {
        const larger = new Float32Array(Math.max(this.end, 2 * this.heap.length));
        larger.set(this.heap);
        this.heap = larger;
      }
    }
    return at;
  }

  // A weight (inner, cols), filled by fill(k, c). Set `reuse` to write over a matrix of the same size.
  matrix(inner, cols, fill, reuse = null) {
    const panels = Math.ceil(cols / PANEL);
    const matrix = reuse ?? { at: this._take(inner * panels * PANEL), inner, cols, panels };
    const { heap } = this;
    for (let p = 0, at = matrix.at; p < panels; p++) {
      for (let k = 0; k < inner; k++) {
        for (let c = p * PANEL; c < (p + 1) * PANEL; c++) heap[at++] = c < cols ? fill(k, c) : 0;
      }
    }
    return matrix;
  }

  // (n, cols) x (n, inner) times a weight, plus a bias where there is one.
  product(x, n, matrix, bias) {
    const { inner, cols, panels } = matrix;
    const width = panels * PANEL;
    const out = new Float32Array(n * cols);
    const need = CHUNK * (inner + width) + width;
    if (!this.room || this.room < need) {
      this.scratch = this._take(need);
      this.room = need;
    }
    const { heap } = this;
    const xs = this.scratch;
    const ys = xs + CHUNK * inner;
    const bs = ys + CHUNK * width;
    heap.fill(0, bs, bs + width);
    if (bias) heap.set(bias, bs);
    for (let start = 0; start < n; start += CHUNK) {
      const rows = Math.min(CHUNK, n - start);
      heap.set(x.subarray(start * inner, (start + rows) * inner), xs);
      const blocks = Math.ceil(rows / ROWS);
      if (this.native) this.native(xs * 4, matrix.at * 4, ys * 4, blocks, inner, panels, bs * 4);
      else plainProduct(heap, xs, matrix.at, ys, rows, inner, panels, bs);
      if (width === cols) out.set(heap.subarray(ys, ys + rows * width), start * cols);
      else for (let r = 0; r < rows; r++) out.set(heap.subarray(ys + r * width, ys + r * width + cols), (start + r) * cols);
    }
    return out;
  }
}

function plainProduct(heap, xs, ws, ys, rows, inner, panels, bs) {
  const width = panels * PANEL;
  for (let p = 0; p < panels; p++) {
    for (let r = 0; r < rows; r++) {
      let [a, b, c, d, e, f, g, h] = heap.subarray(bs + p * PANEL, bs + (p + 1) * PANEL);
      for (let k = 0, w = ws + p * inner * PANEL, x = xs + r * inner; k < inner; k++, w += PANEL, x++) {
        const v = heap[x];
        a += v * heap[w];
        b += v * heap[w + 1];
        c += v * heap[w + 2];
        d += v * heap[w + 3];
        e += v * heap[w + 4];
        f += v * heap[w + 5];
        g += v * heap[w + 6];
        h += v * heap[w + 7];
      }
      heap.set([a, b, c, d, e, f, g, h], ys + r * width + p * PANEL);
    }
  }
}
