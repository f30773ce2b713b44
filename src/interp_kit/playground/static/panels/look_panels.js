// Panels that only look: attention of a head, and what the residual stream says (the logit lens), per position.

import { argmax, softmax } from "../engine/numbers.js";
import { h, paint, percent, redraw, select, sequential, shown } from "./dom.js";

const WIDEST = 48; // positions that are drawn; of longer texts, the one that is looked at

const label = (app, i) => app.text.names[i] ?? String(i);

export function attentionPanel(app) {
  let [layer, head] = [0, 0];
  const content = h("div");
  const refresh = () => {
    const { config } = app.header;
    const count = (n) => Array.from({ length: n }, (_, i) => [i, i]);
    const pick = (set) => (value) => {
      set(Number(value));
      refresh();
    };
    redraw(content, h("div.bar", {},
        select("Layer", count(config.n_layers), layer, pick((v) => (layer = v))),
        select("head", count(config.n_heads), head, pick((v) => (head = v)))),
      app.text.tokens.length <= WIDEST ? matrix() : list(),
    );
  };
  const matrix = () => {
    const patterns = app.session.patterns(app.text.tokens, layer, head);
    const head0 = h("tr", {}, h("td"), app.text.tokens.map((_, i) => h("th", { scope: "col" }, h("span", {}, label(app, i)))));
    const rows = patterns.map((pattern, i) =>
      h("tr", {}, h("th", { scope: "row" }, label(app, i)),
        app.text.tokens.map((_, j) =>
          j > i ? h("td") : h("td.heat", { style: paint(sequential(pattern[j])), title: `${label(app, i)} reads ${label(app, j)}: ${percent(pattern[j])}` },
            pattern[j] > 0.1 ? Math.round(100 * pattern[j]) : ""))));
    return h("div.scroll", { tabindex: 0 }, h("table.net", {}, h("caption", {}, "Rows read columns; numbers in %"), h("thead", {}, head0), h("tbody", {}, rows)));
  };
  const list = () => {
    const pattern = app.session.patterns(app.text.tokens, layer, head)[app.position];
    const order = [...pattern.keys()].sort((a, b) => pattern[b] - pattern[a]).slice(0, 12);
    return h("div", {}, h("p.note", {}, `What ${label(app, app.position)} reads:`),
      h("ol", {}, order.map((i) => h("li", {}, `${label(app, i)} `, h("b", {}, percent(pattern[i]))))));
  };
  return { title: "Attention of a head", content, refresh };
}

export function lensPanel(app) {
  const content = h("div");
  const refresh = () => {
    const { tokens } = app.text;
    const lens = app.session.lens(tokens);
    const columns = tokens.length <= WIDEST ? [...tokens.keys()] : [app.position];
    const stage = (l) => (l === 0 ? "resid_pre.0" : `resid_post.${l - 1}`);
    const cell = (logits) => {
      const chances = softmax(logits);
      const best = argmax(chances);
      const top = [...chances.keys()].sort((a, b) => chances[b] - chances[a]).slice(0, 5);
      return h("td.heat", {
        style: paint(sequential(chances[best])),
        title: top.map((t) => `${shown(app.word(t))} ${percent(chances[t])}`).join(", "),
      }, shown(app.word(best)), columns.length === 1 ? ` ${percent(chances[best])}` : "");
    };
    redraw(content, h("p.note", {}, "The most probable next token, if the model stopped after a layer and unembedded there. A fuller colour is surer."),
      h("div.scroll", { tabindex: 0 },
        h("table.net", {},
          h("thead", {}, h("tr", {}, h("td"), columns.map((i) => h("th", { scope: "col" }, h("span", {}, label(app, i)))))),
          h("tbody", {}, lens.map((row, l) => h("tr", {}, h("th", { scope: "row" }, stage(l)), columns.map((i) => cell(row[i])))).reverse()))),
    );
  };
  return { title: "Residual stream, read by the logit lens", content, refresh };
}

// Next tokens as a tree: each branch that the model gives at least LEAST, with what follows it.
const LEAST = 0.02;
const NODES = 120;
const DEEPEST = 24; // tokens

export function treePanel(app) {
  const content = h("div.tree");
  const refresh = () => {
    const { session, text } = app;
    const last = Math.min(app.header.config.n_ctx, Math.max(text.tokens.length, text.prompt + 1), text.prompt + DEEPEST);
    let left = NODES;
    const branch = (node, chance, depth) => {
      if (depth >= last || left <= 0) return [];
      const chances = softmax(session.now.logits([node])[0]);
      return [...chances.keys()]
        .filter((token) => chances[token] * chance >= LEAST)
        .sort((a, b) => chances[b] - chances[a])
        .map((token) => {
          left -= 1;
          const next = session.trie.node(node, token);
          return { token, chance: chances[token], all: chances[token] * chance, next: branch(next, chances[token] * chance, depth + 1) };
        });
    };
    // a chain without branches is one line
    const item = (one) => {
      const chain = [one];
      while (chain.at(-1).next.length === 1) chain.push(chain.at(-1).next[0]);
      const { next } = chain.at(-1);
      const { all } = chain.at(-1);
      return h("li", {},
        h("span.bar-of", { style: `--share:${(100 * all).toFixed(1)}%` },
          chain.map((part) => h("code", { title: percent(part.chance) }, shown(app.word(part.token)))), ` ${percent(all)}`),
        next.length ? h("ul", {}, next.map(item)) : null);
    };
    const start = session.trie.nodes(text.tokens.slice(0, text.prompt)).at(-1);
    const first = branch(start, 1, text.prompt);
    redraw(content, h("p.note", {}, "What the model writes after the prompt. Percentages are of the whole branch; those under 2 % are left out."),
      h("ul", {}, first.map(item)),
    );
  };
  return { title: "Tree of next tokens", side: "left", content, refresh };
}
