// The view of tasks whose inputs are bits, all of whose worlds are on the page: switches, truth beside answer, and what
// the edits do to every world.

import { softmax } from "../engine/numbers.js";
import { start } from "../panels/app.js";
import { commonPanels } from "../panels/common.js";
import { button, h, percent, redraw, shown } from "../panels/dom.js";
import { treePanel } from "../panels/look_panels.js";

// What the model writes in every world: per example and field {token, chance}.
function written(app, pass) {
  const { task } = app.header;
  const { examples, fields } = task;
  const last = fields.map((field) => examples[0].names.indexOf(field.predict) + 1);
  const rows = app.session.write(examples, { length: Math.max(...last) + 1, pass });
  return rows.map((row, i) =>
    Object.fromEntries(
      fields.map((field) => {
        const at = examples[i].names.indexOf(field.predict) + 1;
        const chance = row.probability[at - examples[i].prompt];
        return [field.name, { token: row.tokens[at], chance, right: row.tokens[at] === examples[i].tokens[at], true: examples[i].tokens[at] }];
      }),
    ),
  );
}

function inputPanel(app) {
  const { inputs, examples } = app.header.task;
  const content = h("div");
  const row = (label, number, set) => {
    const { labels } = examples[number];
    const flip = (name) => {
      const wanted = { ...labels, [name]: 1 - labels[name] };
      set(examples.findIndex((one) => inputs.every((input) => one.labels[input] === wanted[input])));
    };
    return h("div.bar", { role: "group", "aria-label": label }, h("span", {}, label),
      inputs.map((name) =>
        button(`${name} = ${labels[name]}`, () => flip(name), {
          class: "switch", role: "switch", "aria-checked": String(labels[name] === 1), "aria-label": `${label}: ${name}`,
        })));
  };
  const refresh = () => redraw(content, row("Input", app.state.example, (example) => app.change({ example, tokens: null })),
    row("Copy from", app.state.other, (other) => app.change({ other, otherTokens: null })),
    h("p.note", {}, "Switch a bit. The second input is where “copy” takes activations from."),
  );
  return { title: "Input", side: "left", open: true, content, refresh };
}

function answerPanel(app) {
  const content = h("div.scroll");
  const { fields } = app.header.task;
  const refresh = () => {
    const { former, now } = worlds(app);
    const cell = ({ token, chance, right }) =>
      h("td", { class: right ? "right" : "broke" }, h("code", {}, shown(app.word(token))), ` ${percent(chance)} ${right ? "✓" : "✗"}`);
    redraw(content, h("table", {},
        h("thead", {}, h("tr", {}, ["field", "true", "unedited", "under the edits"].map((x) => h("th", { scope: "col" }, x)))),
        h("tbody", {}, fields.map(({ name }) => {
          const [a, b] = [former[app.state.example][name], now[app.state.example][name]];
          return h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, h("code", {}, shown(app.word(a.true)))), cell(a), cell(b));
        }))),
      confidence(app),
    );
  };
  return { title: "Answer", side: "left", open: true, content, refresh };
}

// How sure the model is of each field if the true text stands before it.
function confidence(app) {
  const { text, session } = app;
  const logits = session.logits(text.tokens);
  const chances = app.header.task.fields.map(({ name, predict }) => {
    const at = text.names.indexOf(predict);
    return `${name} ${percent(softmax(logits[at])[text.tokens[at + 1]])}`;
  });
  return h("p.note", {}, `Probability of the true value, with the true text before it: ${chances.join(", ")}.`);
}

// Before and after in every world, computed once per state.
function worlds(app) {
  if (app.worldsOf !== app.session.now) {
    const began = performance.now();
    const now = written(app, app.session.now);
    app.worldsTime = performance.now() - began;
    app.former ??= written(app, app.session.base);
    app.worldsOf = app.session.now;
    app.worlds = { former: app.former, now };
  }
  return app.worlds;
}

function worldsPanel(app) {
  const { inputs, fields, examples } = app.header.task;
  const content = h("div");
  const refresh = () => {
    const { former, now } = worlds(app);
    const broke = (name) => now.filter((row, i) => former[i][name].right && !row[name].right).length;
    const mended = (name) => now.filter((row, i) => !former[i][name].right && row[name].right).length;
    const whole = now.filter((row) => fields.every(({ name }) => row[name].right)).length;
    const cell = (i, name) => {
      const [a, b] = [former[i][name], now[i][name]];
      const kind = a.right === b.right ? "" : b.right ? "mended" : "broke";
      return h("td", { class: kind, title: `true ${shown(app.word(a.true))}, unedited ${shown(app.word(a.token))}` },
        h("code", {}, shown(app.word(b.token))), b.right ? "" : " ✗");
    };
    redraw(content, h("p", {}, h("b", {}, `${whole} of ${examples.length} worlds are right`), ` in every field. Computed in ${Math.round(app.worldsTime)} ms.`),
      h("p.note", {}, "✗ is wrong; orange: broken by the edits; blue: mended by them. Click a world to make it the input."),
      h("div.scroll", { tabindex: 0 },
        h("table", {},
          h("thead", {},
            h("tr", {}, h("th", { scope: "col" }, inputs.join(" ")), fields.map(({ name }) => h("th", { scope: "col" }, name))),
            h("tr", {}, h("th", { scope: "row" }, "broken, mended"), fields.map(({ name }) => h("td", {}, `${broke(name)}, ${mended(name)}`)))),
          h("tbody", {}, examples.map((example, i) =>
            h("tr", {},
              h("th", { scope: "row" }, button(inputs.map((name) => example.labels[name]).join(" "), () => app.change({ example: i, tokens: null }), {
                "aria-pressed": String(i === app.state.example),
              })),
              fields.map(({ name }) => cell(i, name))))))),
    );
  };
  return { title: `All ${examples.length} worlds, before and after`, side: "right", open: true, content, refresh };
}

start((app) => [inputPanel(app), answerPanel(app), ...commonPanels(app, worldsPanel(app), treePanel(app))]);
