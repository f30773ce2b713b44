// The view of any model: the tokens of an example, which can be changed one by one, and what comes next.

import { softmax } from "../engine/numbers.js";
import { start } from "../panels/app.js";
import { commonPanels } from "../panels/common.js";
import { button, h, paint, percent, redraw, roving, select, sequential, shown } from "../panels/dom.js";
import { treePanel } from "../panels/look_panels.js";

function inputPanel(app) {
  const content = h("div");
  const { examples } = app.header.task ?? { examples: [] };
  const title = (i) => `${i + 1}: ${examples[i].tokens.slice(0, examples[i].prompt).map((t) => shown(app.word(t))).join("").slice(0, 60)}`;
  const refresh = () => {
    const all = examples.map((_, i) => [i, title(i)]);
    redraw(content, examples.length
        ? h("div.bar", {},
            select("Input", all, app.state.example, (i) => app.change({ example: Number(i), tokens: null })),
            select("Copy from", all, app.state.other, (i) => app.change({ other: Number(i), otherTokens: null })))
        : h("p.note", {}, "No task is known for this model: its texts are token ids."),
      tokenRow(app),
      tokenEditor(app),
    );
  };
  return { title: "Input", side: "left", open: true, content, refresh };
}

// The text, token by token; a click looks at one. Its shade is the probability that the model gave it.
function tokenRow(app) {
  const { text, session } = app;
  const logits = session.logits(text.tokens);
  const cells = text.tokens.map((token, i) => {
    const chance = i ? softmax(logits[i - 1])[token] : 0;
    return button(shown(app.word(token)), () => app.look(i), {
      class: i < text.prompt ? "token" : "token answer", style: paint(sequential(chance)), "aria-pressed": String(i === app.position),
      title: `${text.names[i] ?? i}: ${i ? percent(chance) : "first"}`,
    });
  });
  const row = h("div.tokens", { "aria-label": "Tokens of the text" }, cells);
  roving(row, [cells]);
  return row;
}

// Put another token at the position that is looked at.
function tokenEditor(app) {
  const { tokens } = app.text;
  const { d_vocab } = app.header.config;
  const at = app.position;
  const put = (token) => {
    if (!Number.isInteger(token) || token < 0 || token >= d_vocab) {
      app.say(`There is no token ${token}: expected 0 to ${d_vocab - 1}.`, true);
      return;
    }
    app.change({ tokens: tokens.map((old, i) => (i === at ? token : old)) });
  };
  const field = h("input", { list: "vocabulary", value: tokens[at], size: 8, "aria-label": "Token id" });
  return h("form.bar", {
    onsubmit: (event) => {
      event.preventDefault();
      put(Number(field.value));
    },
  },
    h("span", {}, `Token ${app.text.names[at] ?? at}:`), field, h("button", { type: "submit" }, "Replace"),
    app.header.task ? null : button("Append", () => app.change({ tokens: [...tokens, Number(field.value) || 0].slice(0, app.header.config.n_ctx) })),
    app.state.tokens && app.header.task ? button("Own tokens again", () => app.change({ tokens: null })) : null,
    h("datalist", { id: "vocabulary" }, app.vocabulary.slice(0, 2000).map((word, i) => h("option", { value: i }, shown(word)))));
}

// Field by field: the truth, and what the model makes of it unedited and edited.
export function answerPanel(app) {
  const content = h("div.scroll");
  const { fields } = app.header.task ?? { fields: [] };
  const refresh = () => {
    const { session, text } = app;
    const read = fields.length
      ? fields.map((field) => [field.name, text.names.indexOf(field.predict)]).filter(([, at]) => at >= 0)
      : [["next token", app.position]];
    const [now, former] = [session.now, session.base].map((pass) => session.logits(text.tokens, pass));
    const best = (logits) => {
      const chances = softmax(logits);
      const order = [...chances.keys()].sort((a, b) => chances[b] - chances[a]).slice(0, 3);
      return h("td", {}, order.map((token) => h("span.option", {}, h("code", {}, shown(app.word(token))), ` ${percent(chances[token])} `)));
    };
    redraw(content, h("table", {},
        h("thead", {}, h("tr", {}, ["asked", "true", "unedited", "under the edits"].map((x) => h("th", { scope: "col" }, x)))),
        h("tbody", {}, read.map(([name, at]) =>
          h("tr", {}, h("th", { scope: "row" }, name),
            h("td", {}, at + 1 < text.tokens.length && !app.state.tokens ? h("code", {}, shown(app.word(text.tokens[at + 1]))) : "unknown"),
            best(former[at]), best(now[at]))))));
  };
  return { title: "Answer", side: "right", open: true, content, refresh };
}

start((app) => [inputPanel(app), answerPanel(app), ...commonPanels(app, treePanel(app))]);
