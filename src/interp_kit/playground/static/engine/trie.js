// Texts as paths of one tree: what begins alike is computed once. A node is a token after all tokens above it.

export class Trie {
  constructor() {
    this.token = [];
    this.pos = [];
    this.path = []; // the nodes from the first token to this one
    this.known = new Map();
  }

  get size() {
    return this.token.length;
  }

  // The node of a token after another node (-1: none).
  node(parent, token) {
    const key = `${parent} ${token}`;
    let found = this.known.get(key);
    if (found === undefined) {
      found = this.size;
      this.known.set(key, found);
      const before = parent < 0 ? [] : this.path[parent];
      const path = new Int32Array(before.length + 1);
      path.set(before);
      path[before.length] = found;
      this.token.push(token);
      this.pos.push(before.length);
      this.path.push(path);
    }
    return found;
  }

  // The nodes of a text, first token first.
  nodes(tokens) {
    let last = -1;
    for (const token of tokens) last = this.node(last, token);
    return last < 0 ? new Int32Array(0) : this.path[last];
  }

  // The nodes and all above them up to those that are `done`, each once, none before one above it.
  open(nodes, done) {
    const all = new Set();
    for (const node of nodes) {
      const path = this.path[node];
      for (let i = path.length - 1; i >= 0 && !all.has(path[i]) && !done(path[i]); i--) all.add(path[i]);
    }
    return [...all].sort((x, y) => x - y); // a node is younger than its parent
  }
}

// A table with a row of `width` numbers for each node; it grows.
export class Rows {
  constructor(width) {
    this.width = width;
    this.data = new Float32Array(0);
  }

  reserve(rows) {
    if (rows * this.width > this.data.length) {
      const larger = new Float32Array(Math.max(rows, 64) * this.width * 1.5);
      larger.set(this.data);
      this.data = larger;
    }
  }

  row(i) {
    return this.data.subarray(i * this.width, (i + 1) * this.width);
  }

  // Rows of a batch, one after the other.
  gather(nodes) {
    const out = new Float32Array(nodes.length * this.width);
    for (let i = 0; i < nodes.length; i++) out.set(this.row(nodes[i]), i * this.width);
    return out;
  }

  // Put rows of a batch into the table; they begin at `from` in rows of `stride` numbers.
  scatter(nodes, values, stride = this.width, from = 0) {
    const { width, data } = this;
    for (let i = 0; i < nodes.length; i++) {
      const at = i * stride + from;
      data.set(values.subarray(at, at + width), nodes[i] * width);
    }
  }

  copy(other, nodes) {
    for (const node of nodes) this.row(node).set(other.row(node));
  }
}
