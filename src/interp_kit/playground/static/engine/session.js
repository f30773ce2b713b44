// A model with its edits: what a page asks. A text is {tokens, names, prompt}: names of its positions, and how many
// tokens are given; `write` writes the others.

import { checkEdit, compileEdits, isWeight } from "./edits.js";
import { Kernel } from "./kernel.js";
import { Net } from "./net.js";
import { argmax, softmax } from "./numbers.js";
import { Pass } from "./pass.js";
import { Trie } from "./trie.js";
import { readWeights } from "./weights.js";

const MEMORY = 256 * 2 ** 20; // bytes of kept activations, beyond which all are forgotten

// Numbers in [0, 1) from a seed (mulberry32).
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class Session {
  constructor(header, bytes, { simd = true } = {}) {
    this.header = header;
    this.net = new Net(header, readWeights(header.tensors, bytes), new Kernel(simd));
    this.examples = header.task?.examples ?? [];
    this._forget();
    this.setEdits([], null, null);
  }

  _forget() {
    this.trie = new Trie();
    this.base = new Pass(this.net, this.trie);
    this.references = new Map();
  }

  // Edit the model, for texts whose positions are those of `text`. Throws an Error for an edit that does not fit.
  setEdits(edits, text, other) {
    const { header, net } = this;
    for (const edit of edits) checkEdit(header, edit, text, other);
    const { n_layers, d_model } = net.config;
    if (this.trie.size * 4 * (d_model * (n_layers + 1) + 3 * net.heads * n_layers) > MEMORY) this._forget();
    this.edits = edits;
    const weights = edits.filter((edit) => isWeight(header, edit));
    const compiled = compileEdits(
      header, edits.filter((edit) => !isWeight(header, edit)), text,
      (edit, at) => this._reference(edit, at, text, other),
    );
    this.now = edits.length
      ? new Pass(net.edited(weights), this.trie, { base: this.base, edits: compiled })
      : this.base;
  }

  // Logits after each token of a text, all tokens given: [(vocab,), …].
  logits(tokens, pass = this.now) {
    return pass.logits(this.trie.nodes(tokens));
  }

  // Write what of texts is open, up to `length` tokens each, all texts together; a step per call of `step`.
  writer(texts, { length, pass = this.now, temperature = null, seed = 0 }) {
    const draw = random(seed);
    const rows = texts.map((text) => {
      const tokens = Array.from(text.tokens.slice(0, text.prompt));
      return { tokens, probability: [], spread: [], node: this.trie.nodes(tokens).at(-1) };
    });
    const choose = (chances) => {
      if (temperature === null) return argmax(chances);
      let left = draw();
      const found = softmax(Array.from(chances, (chance) => Math.log(chance) / temperature));
      for (let token = 0; token < found.length; token++) if ((left -= found[token]) < 0) return token;
      return found.length - 1;
    };
    return {
      rows,
      step: () => {
        const open = rows.filter((row) => row.tokens.length < length);
        const logits = pass.logits(open.map((row) => row.node));
        open.forEach((row, i) => {
          const chances = softmax(logits[i]);
          const token = choose(chances);
          row.tokens.push(token);
          row.probability.push(chances[token]);
          row.spread.push(chances);
          if (row.tokens.length < length) row.node = this.trie.node(row.node, token);
        });
        return open.some((row) => row.tokens.length < length);
      },
    };
  }

  // The same at once.
  write(texts, options) {
    const writer = this.writer(texts, options);
    while (writer.step());
    return writer.rows;
  }

  // (pos,) what a head reads at each position of a text: [[…], …].
  patterns(tokens, layer, head, pass = this.now) {
    const nodes = this.trie.nodes(tokens);
    pass.advance(nodes);
    return Array.from(nodes, (node) => pass.pattern(layer, head, node));
  }

  // Logits of the residual stream before each layer and after the last, at each position: lens[layer][pos] (vocab,).
  lens(tokens, pass = this.now) {
    const { n_layers, d_vocab } = this.net.config;
    const nodes = Array.from(this.trie.nodes(tokens));
    pass.advance(nodes);
    return Array.from({ length: n_layers + 1 }, (_, l) => {
      const x = new Float32Array(nodes.length * this.net.config.d_model);
      nodes.forEach((node, i) => x.set(this._keeper(pass, l, node).resid[l].row(node), i * this.net.config.d_model));
      const logits = pass.unembed(x, nodes.length);
      return nodes.map((_, i) => logits.subarray(i * d_vocab, (i + 1) * d_vocab));
    });
  }

  // The activation of a site at each position of a text: [(width,), …].
  activation(tokens, site, layer, pass = this.now) {
    return this.activations(tokens, [[site, layer]], pass)[0];
  }

  // The same of several sites [site, layer], in one run.
  activations(tokens, sites, pass = this.now) {
    const nodes = this.trie.nodes(tokens);
    const found = new Map(sites.map(([site, layer]) => [`${site}.${layer}`, new Map()]));
    const watch = (site, layer, batch, values) => {
      const rows = found.get(`${site}.${layer}`);
      const width = values.length / batch.length;
      if (rows) batch.forEach((node, i) => rows.set(node, values.slice(i * width, (i + 1) * width)));
    };
    const layers = sites.map(([, layer]) => layer ?? -1);
    const [first, last] = [Math.min(...layers), Math.max(...layers)];
    const run =
      pass === this.base
        ? new Pass(this.net, this.trie, { base: first < 0 ? null : this.base, start: Math.max(0, first), watch })
        : this._again(pass, watch);
    run.advance(nodes, last + 1);
    return [...found.values()].map((rows) => Array.from(nodes, (node) => rows.get(node)));
  }

  // The same at one position alone, with keys and values of those before it as they were kept.
  activationsAt(tokens, position, sites, pass = this.now) {
    const nodes = this.trie.nodes(tokens.slice(0, position + 1));
    const found = new Map();
    const run = this._again(pass, (site, layer, _, values) => found.set(`${site}.${layer}`, values));
    const { n_layers } = this.net.config;
    pass.advance(nodes);
    for (let l = 0; l < n_layers; l++) {
      for (const table of ["k", "v"]) {
        run[table][l].reserve(this.trie.size);
        for (const node of nodes.subarray(0, position)) {
          run[table][l].copy(this._keeper(pass, l, node)[table][l], [node]);
          run.depth[node] = n_layers;
        }
      }
    }
    run.advance([nodes[position]]);
    return sites.map(([site, layer]) => found.get(`${site}.${layer}`));
  }

  // The run that holds what `pass` has of a node in a layer: what its edits do not reach is in its base.
  _keeper(pass, layer, node) {
    return pass.base && (layer < pass.start || this.trie.pos[node] < pass.from) ? pass.base : pass;
  }

  // A run under the same edits that computes everything itself, so that all of it is seen.
  _again(pass, watch) {
    const run = new Pass(pass.net, this.trie, { watch });
    run.edits = pass.edits;
    return run;
  }

  // pos -> (width,) what a Mean or a Copy writes: of the unedited model.
  _reference(edit, at, text, other) {
    const rows = (tokens) => {
      const key = `${edit.site} ${edit.layer} ${tokens.join(" ")}`;
      if (!this.references.has(key)) {
        this.references.set(key, this.activation(tokens, edit.site, edit.layer, this.base));
      }
      return this.references.get(key);
    };
    if (edit.source.kind === "Copy") return (pos) => rows(other.tokens)[pos];
    const means = new Map();
    for (const pos of at === null ? text.tokens.keys() : [at]) {
      const name = text.names[pos];
      const having = this.examples.filter((example) => name !== null && example.names.includes(name));
      if (!having.length) throw new Error(`no example has position ${name ?? pos}, so it has no mean`);
      const all = having.map((example) => rows(example.tokens)[example.names.indexOf(name)]);
      means.set(pos, all[0].map((_, c) => all.reduce((sum, row) => sum + row[c], 0) / all.length));
    }
    return (pos) => means.get(pos);
  }
}
