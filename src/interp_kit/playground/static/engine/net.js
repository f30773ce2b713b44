// A model's weights, arranged for products. One edited net of a base net is in use at a time: it shares what is not
// edited, and writes the rest over what the edited net before it had.

import { changeWeight } from "./weights.js";

export class Net {
  constructor(header, params, kernel) {
    this.header = header;
    this.config = header.config;
    this.kernel = kernel;
    this.params = params;
    this.spare = new Map();
    this.first = 0;
    this.layers = Array.from({ length: this.config.n_layers }, (_, l) => this._layer(l));
    this._ends();
  }

  get heads() {
    return this.config.n_heads * this.config.d_head;
  }

  parameter(site, layer) {
    return this.header.weights[site].parameter.replace("{layer}", layer);
  }

  // The net under these weight edits. first: the layer from which on it differs; n_layers: only behind the last.
  edited(edits) {
    if (!edits.length) return this;
    const net = Object.create(Net.prototype);
    const params = new Map(this.params);
    const changed = new Set();
    for (const edit of edits) {
      const name = this.parameter(edit.site, edit.layer);
      const { shape, data } = params.get(name);
      const own = changed.has(name) ? data : data.slice();
      changeWeight(own, shape, edit);
      params.set(name, { shape, data: own });
      changed.add(name);
    }
    const { n_layers } = this.config;
    Object.assign(net, this, { params, reusing: true });
    net.first = n_layers;
    net.embeds = changed.has("embed.W_E") || changed.has("pos_embed.W_pos");
    const parts = (l) => [...changed].filter((name) => name.startsWith(`blocks.${l}.`)).map((n) => n.split(".").pop());
    net.layers = this.layers.map((layer, l) => {
      const inside = parts(l);
      if (!inside.length) return layer;
      net.first = Math.min(net.first, l);
      return net._layer(l, layer, inside);
    });
    if (net.embeds) net.first = 0;
    net._ends(this, changed.has("unembed.W_U"));
    return net;
  }

  _data(name) {
    return this.params.get(name)?.data ?? null;
  }

  _matrix(key, inner, cols, fill) {
    if (!this.reusing) return this.kernel.matrix(inner, cols, fill);
    const matrix = this.kernel.matrix(inner, cols, fill, this.spare.get(key) ?? null);
    this.spare.set(key, matrix);
    return matrix;
  }

  _norm(prefix) {
    const w = this._data(`${prefix}.w`);
    return w ? { w, b: this._data(`${prefix}.b`) } : null;
  }

  // former, inside: the base net's layer, and the parameters of it that are edited.
  _layer(l, former = null, inside = null) {
    const { d_model, n_heads, d_head, d_mlp } = this.config;
    const at = `blocks.${l}`;
    const get = (name) => this._data(`${at}.${name}`);
    const remake = (...names) => !former || names.some((name) => inside.includes(name));
    const wide = n_heads * d_head;
    const layer = { scale: this.config.scale[l], norm1: this._norm(`${at}.ln1`), norm2: this._norm(`${at}.ln2`) };
    const qkv = ["Q", "K", "V"].map((x) => [get(`attn.W_${x}`), get(`attn.b_${x}`)]);
    layer.qkv = remake("W_Q", "W_K", "W_V")
      ? this._matrix(`${l} qkv`, d_model, 3 * wide, (k, c) => {
          const [head, i] = [Math.floor((c % wide) / d_head), c % d_head];
          return qkv[Math.floor(c / wide)][0][(head * d_model + k) * d_head + i];
        })
      : former.qkv;
    layer.qkvBias = new Float32Array(3 * wide);
    qkv.forEach(([, bias], i) => layer.qkvBias.set(bias, i * wide));
    const out = get("attn.W_O");
    layer.out = remake("W_O") ? this._matrix(`${l} out`, wide, d_model, (k, c) => out[k * d_model + c]) : former.out;
    layer.outBias = get("attn.b_O");
    if (d_mlp !== null) {
      const [into, from] = [get("mlp.W_in"), get("mlp.W_out")];
      layer.into = remake("W_in")
        ? this._matrix(`${l} in`, d_model, d_mlp, (k, c) => into[k * d_mlp + c])
        : former.into;
      layer.from = remake("W_out")
        ? this._matrix(`${l} from`, d_mlp, d_model, (k, c) => from[k * d_model + c])
        : former.from;
      layer.intoBias = get("mlp.b_in");
      layer.fromBias = get("mlp.b_out");
    }
    return layer;
  }

  _ends(former = null, remake = true) {
    const { d_model, d_vocab } = this.config;
    this.embed = this._data("embed.W_E");
    this.positions = this._data("pos_embed.W_pos");
    const unembed = this._data("unembed.W_U");
    this.unembed = remake
      ? this._matrix("unembed", d_model, d_vocab, (k, c) => unembed[k * d_vocab + c])
      : former.unembed;
    this.unembedBias = this._data("unembed.b_U");
    this.normFinal = this._norm("ln_final");
  }
}
