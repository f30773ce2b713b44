// One run of a net over a tree of texts, with keys and values kept, under edits of activations. A run under edits takes
// from the unedited one (`base`) all that the edits cannot reach: earlier layers and earlier positions.

import { ACTIVATIONS, exp, layerNorm } from "./numbers.js";
import { Rows } from "./trie.js";

export class Pass {
  // edits: as `compileEdits` gives them. watch(site, layer, nodes, values): called with every activation, edits made.
  constructor(net, trie, { base = null, edits = [], start = null, watch = null } = {}) {
    const { n_layers, d_model } = net.config;
    Object.assign(this, { net, trie, base, watch });
    this.edits = new Map();
    for (const edit of edits) {
      if (!this.edits.has(edit.key)) this.edits.set(edit.key, []);
      this.edits.get(edit.key).push(edit);
    }
    const ownWeights = base !== null && base.net !== net;
    this.embeds = base === null || Boolean(net.embeds && ownWeights) || edits.some((edit) => edit.start < 0);
    const starts = [...edits.map((edit) => edit.start), ...(ownWeights ? [net.first] : []), start ?? n_layers];
    this.start = base === null ? 0 : Math.max(0, Math.min(...starts));
    // from: the first position that differs from the base
    this.from = base === null || ownWeights || start !== null ? 0 : Math.min(...edits.map((e) => e.position ?? 0));
    const tables = (width, n) => Array.from({ length: n }, () => new Rows(width));
    this.resid = tables(d_model, n_layers + 1);
    this.q = tables(net.heads, n_layers);
    this.k = tables(net.heads, n_layers);
    this.v = tables(net.heads, n_layers);
    this.final = new Rows(net.config.d_vocab);
    this.depth = []; // per node: layers computed; undefined: not begun
    this.read = new Set(); // nodes with logits
  }

  // Compute the nodes, and those above them, up to layer `depth` (all by default).
  advance(nodes, depth = this.net.config.n_layers) {
    const all = this.trie.open(nodes, (node) => this.depth[node] >= depth);
    if (!all.length) return;
    for (const tables of [this.resid, this.q, this.k, this.v]) {
      for (const rows of tables.slice(this.start)) rows.reserve(this.trie.size);
    }
    this._begin(all.filter((node) => this.depth[node] === undefined));
    for (let l = this.start; l < depth; l++) {
      const batch = all.filter((node) => this.depth[node] === l);
      if (batch.length) this._block(l, batch);
    }
  }

  // (vocab,) logits after each of the nodes.
  logits(nodes) {
    this.advance(nodes);
    const { config } = this.net;
    const batch = [...new Set(nodes)].filter((node) => !this.read.has(node));
    if (batch.length) {
      this.final.reserve(this.trie.size);
      const x = this.resid[config.n_layers].gather(batch);
      this.final.scatter(batch, this.unembed(x, batch.length));
      for (const node of batch) this.read.add(node);
    }
    return Array.from(nodes, (node) => this.final.row(node));
  }

  // (n, vocab) what the unembedding makes of (n, d_model) a residual stream.
  unembed(x, n) {
    const { net } = this;
    const { d_model, eps, final_norm } = net.config;
    const normed = layerNorm(x, n, d_model, net.normFinal, final_norm ? eps : null);
    return net.kernel.product(normed, n, net.unembed, net.unembedBias);
  }

  // (pos,) what a head reads at a node from itself and each node above it.
  pattern(layer, head, node) {
    const owner = layer < this.start ? this.base : this;
    owner.advance([node], layer + 1);
    if (owner.base && owner.trie.pos[node] < owner.from) return owner.base.pattern(layer, head, node);
    const path = this.trie.path[node];
    const weights = new Float64Array(path.length);
    owner._attend(layer, head, owner.q[layer].row(node), path, weights);
    return weights;
  }

  _begin(nodes) {
    const { base, trie, net } = this;
    const { n_layers } = net.config;
    if (base === null || this.embeds) {
      this._embed(nodes);
      return;
    }
    const before = nodes.filter((node) => trie.pos[node] < this.from);
    const after = nodes.filter((node) => trie.pos[node] >= this.from);
    base.advance(before);
    base.advance(after, this.start);
    for (let l = this.start; l < n_layers; l++) {
      this.k[l].copy(base.k[l], before);
      this.v[l].copy(base.v[l], before);
    }
    this.resid[n_layers].copy(base.resid[n_layers], before);
    this.resid[this.start].copy(base.resid[this.start], after);
    for (const node of before) this.depth[node] = n_layers;
    for (const node of after) this.depth[node] = this.start;
  }

  _embed(nodes) {
    const { d_model } = this.net.config;
    const embed = new Float32Array(nodes.length * d_model);
    const pos = new Float32Array(nodes.length * d_model);
    nodes.forEach((node, i) => {
      const [token, at] = [this.trie.token[node] * d_model, this.trie.pos[node] * d_model];
      embed.set(this.net.embed.subarray(token, token + d_model), i * d_model);
      pos.set(this.net.positions.subarray(at, at + d_model), i * d_model);
    });
    this._visit("embed", null, nodes, embed);
    this._visit("pos_embed", null, nodes, pos);
    this.resid[0].scatter(nodes, embed.map((value, i) => value + pos[i]));
    for (const node of nodes) this.depth[node] = 0;
  }

  _block(l, nodes) {
    const { net } = this;
    const { d_model, eps } = net.config;
    const layer = net.layers[l];
    const { kernel, heads } = net;
    const n = nodes.length;
    const x = this.resid[l].gather(nodes);
    if (this._visit("resid_pre", l, nodes, x)) this.resid[l].scatter(nodes, x);
    const qkv = kernel.product(layerNorm(x, n, d_model, layer.norm1, eps), n, layer.qkv, layer.qkvBias);
    ["q", "k", "v"].forEach((site, part) => {
      this[site][l].scatter(nodes, qkv, 3 * heads, part * heads);
      if (!this._isVisited(site, l)) return;
      const values = this[site][l].gather(nodes);
      if (this._visit(site, l, nodes, values)) this[site][l].scatter(nodes, values);
    });
    const z = this._attention(l, nodes);
    this._visit("z", l, nodes, z);
    this._add(x, "attn_out", l, nodes, kernel.product(z, n, layer.out, layer.outBias));
    this._visit("resid_mid", l, nodes, x);
    if (layer.into) {
      const hidden = kernel.product(layerNorm(x, n, d_model, layer.norm2, eps), n, layer.into, layer.intoBias);
      ACTIVATIONS[net.config.act_fn](hidden);
      this._visit("mlp_post", l, nodes, hidden);
      this._add(x, "mlp_out", l, nodes, kernel.product(hidden, n, layer.from, layer.fromBias));
    }
    this._visit("resid_post", l, nodes, x);
    this.resid[l + 1].scatter(nodes, x);
    for (const node of nodes) this.depth[node] = l + 1;
  }

  _add(x, site, l, nodes, values) {
    this._visit(site, l, nodes, values);
    for (let i = 0; i < x.length; i++) x[i] += values[i];
  }

  _attention(l, nodes) {
    const { heads, config } = this.net;
    const { n_heads, d_head } = config;
    const z = new Float32Array(nodes.length * heads);
    const values = this.v[l].data;
    const longest = nodes.reduce((most, node) => Math.max(most, this.trie.path[node].length), 0);
    const weights = new Float64Array(longest);
    for (let i = 0; i < nodes.length; i++) {
      const path = this.trie.path[nodes[i]];
      const q = this.q[l].row(nodes[i]);
      for (let h = 0; h < n_heads; h++) {
        this._attend(l, h, q, path, weights);
        mix(weights, path, values, heads, h * d_head, d_head, z, i * heads + h * d_head);
      }
    }
    return z;
  }

  // The softmax of a head's scores of one query with the keys of a path, into `weights`.
  _attend(l, head, q, path, weights) {
    const { heads, config, layers } = this.net;
    const { d_head } = config;
    const keys = this.k[l].data;
    const first = head * d_head;
    let top = -Infinity;
    const { scale } = layers[l];
    for (let j = 0; j < path.length; j++) {
      const at = path[j] * heads + first;
      let a = 0, b = 0, d = 0, e = 0, c = 0; // four sums, which do not wait for each other
      for (; c + 3 < d_head; c += 4) {
        a += q[first + c] * keys[at + c];
        b += q[first + c + 1] * keys[at + c + 1];
        d += q[first + c + 2] * keys[at + c + 2];
        e += q[first + c + 3] * keys[at + c + 3];
      }
      for (; c < d_head; c++) a += q[first + c] * keys[at + c];
      weights[j] = (a + b + d + e) * scale;
      if (weights[j] > top) top = weights[j];
    }
    let total = 0;
    for (let j = 0; j < path.length; j++) total += weights[j] = exp(weights[j] - top);
    for (let j = 0; j < path.length; j++) weights[j] /= total;
  }

  _isVisited(site, layer) {
    return this.watch !== null || this.edits.has(`${site}.${layer}`);
  }

  // Make the edits of a site in place. True if there are any.
  _visit(site, layer, nodes, values) {
    if (!this._isVisited(site, layer)) return false;
    const edits = this.edits.get(`${site}.${layer}`);
    const width = values.length / nodes.length;
    if (edits) {
      nodes.forEach((node, i) => {
        for (const edit of edits) edit.write(values.subarray(i * width, (i + 1) * width), this.trie.pos[node]);
      });
    }
    this.watch?.(site, layer, nodes, values);
    return Boolean(edits);
  }
}

// out[to…] = the sum of a head's values (d_head of them, from `first` on in rows of `heads`) along a path, weighted.
function mix(weights, path, values, heads, first, d_head, out, to) {
  const n = path.length;
  let c = 0;
  for (; c + 3 < d_head; c += 4) {
    let a = 0, b = 0, d = 0, e = 0;
    for (let j = 0; j < n; j++) {
      const w = weights[j];
      const at = path[j] * heads + first + c;
      a += w * values[at];
      b += w * values[at + 1];
      d += w * values[at + 2];
      e += w * values[at + 3];
    }
    out[to + c] = a;
    out[to + c + 1] = b;
    out[to + c + 2] = d;
    out[to + c + 3] = e;
  }
  for (; c < d_head; c++) {
    let a = 0;
    for (let j = 0; j < n; j++) a += weights[j] * values[path[j] * heads + first + c];
    out[to + c] = a;
  }
}
