// The view of tasks whose texts are grids of colours, the last of which the model writes: paint, and watch it write.

import { start } from "../panels/app.js";
import { commonPanels } from "../panels/common.js";
import { button, h, number, percent, redraw, roving, select } from "../panels/dom.js";

const COLOURS = [
  "#ffffff", "#d55e00", "#0072b2", "#009e73", "#f0e442", "#cc79a7", "#56b4e9", "#e69f00", "#999999", "#332288", "#882255",
];
const DARK = [1, 2, 3, 9, 10]; // colours on which white is read
const SLICE = 80; // ms of writing between two looks at the page

class Quiz {
  constructor(app) {
    const { side, grids } = app.header.task;
    Object.assign(this, { app, side, grids, cells: side * side, quarter: side * side + 1 });
    this.brush = 1;
    this.mode = { temperature: null, seed: 0 };
    this.head = { layer: 0, head: 0 };
    this.run = 0;
    this.written = null;
  }

  // The index in the text of a cell of a grid, after the token that begins the text and the grid's own marker.
  at(grid, cell) {
    return 1 + grid * this.quarter + 1 + cell;
  }

  // Write the last grid, a slice of time at a time; a newer state ends it.
  async write(show) {
    const run = (this.run += 1);
    const { app } = this;
    const { text } = app;
    const began = performance.now();
    let busy = 0;
    const writer = app.session.writer([text], { length: 1 + this.grids * this.quarter, ...this.mode });
    this.written = writer.rows[0];
    for (let more = true; more; ) {
      const slice = performance.now();
      while ((more = writer.step()) && performance.now() - slice < SLICE);
      busy += performance.now() - slice;
      const took = `Written in ${Math.round(performance.now() - began)} ms (${Math.round(busy)} ms of computing)`;
      show(more ? "Writing …" : took, more);
      await new Promise((done) => setTimeout(done));
      if (run !== this.run) return;
    }
    document.body.dataset.written = String(Number(document.body.dataset.written ?? 0) + 1);
  }

  // What the head reads at the position that is looked at: (pos,), or nothing if that is not written yet.
  reads() {
    const { app } = this;
    const tokens = this.written ? this.written.tokens : app.text.tokens.slice(0, app.text.prompt);
    const until = tokens.slice(0, app.position + 1);
    if (until.length <= app.position) return [];
    const node = app.session.trie.nodes(until).at(-1);
    return app.session.now.pattern(this.head.layer, this.head.head, node);
  }
}

function quizPanel(app) {
  const quiz = new Quiz(app);
  const { task, config } = app.header;
  const tools = h("div");
  const board = h("div.grids");
  const said = h("p", { "aria-live": "polite" });
  const buttons = [];
  let shownOf = null;
  let finished = "";

  function build() {
    const names = Array.from({ length: quiz.grids }, (_, g) => app.text.names[1 + g * quiz.quarter] ?? `grid ${g + 1}`);
    redraw(board, ...names.map((name, g) => {
        const last = g === quiz.grids - 1;
        const cells = Array.from({ length: quiz.cells }, (_, cell) => {
          const made = button("", () => (last ? app.look(quiz.at(g, cell) - 1) : painted(g, cell)));
          if (!last) made.addEventListener("pointerenter", (event) => event.buttons === 1 && painted(g, cell));
          return made;
        });
        buttons[g] = cells;
        const rows = Array.from({ length: quiz.side }, (_, r) => cells.slice(r * quiz.side, (r + 1) * quiz.side));
        const frame = h("div.cells", { style: `--side:${quiz.side}` }, cells);
        roving(frame, rows);
        return h("fieldset.quarter", {}, h("legend", {}, last ? `${name}: the model's` : name), h("div.scroll", {}, frame));
      }),
    );
  }

  function painted(grid, cell) {
    const { tokens } = app.text;
    const at = quiz.at(grid, cell);
    if (tokens[at] === quiz.brush) app.look(at);
    else app.change({ tokens: tokens.map((old, i) => (i === at ? quiz.brush : old)) });
  }

  // Every cell, or while the model writes those of the last grid.
  function draw(note, writing = false) {
    finished = note;
    const { text } = app;
    const { written } = quiz;
    const reads = writing ? [] : quiz.reads();
    const most = Math.max(...reads, 0.001);
    let wrong = 0;
    let likely = 0;
    buttons.forEach((cells, g) => {
      if (writing && g < quiz.grids - 1) return;
      cells.forEach((cell, i) => {
        const at = quiz.at(g, i);
        const last = g === quiz.grids - 1;
        const token = last ? written.tokens[at] : text.tokens[at];
        const chance = last ? written.probability[at - text.prompt] : null;
        const off = last && !app.state.tokens && token !== undefined && token !== text.tokens[at];
        wrong += off;
        if (last && chance !== undefined) likely += Math.log(chance);
        cell.textContent = token ?? "";
        const known = token !== undefined && token < COLOURS.length;
        cell.style.cssText = known
          ? `background:${COLOURS[token]};color:${DARK.includes(token) ? "#fff" : "#111"};${last ? `opacity:${0.35 + 0.65 * chance};` : ""}--read:${(14 * Math.sqrt((reads[at] ?? 0) / most)).toFixed(1)}px`
          : "";
        cell.classList.toggle("wrong", off);
        cell.classList.toggle("unsure", last && chance < 0.9);
        cell.classList.toggle("read", (reads[at] ?? 0) > 0.02);
        cell.setAttribute("aria-pressed", String(at === app.position + (last ? 1 : 0)));
        const place = `${app.text.names[at] ?? at}: ${token ?? "not written"}`;
        const extra = [last && chance !== undefined ? percent(chance) : "", off ? `true ${text.tokens[at]}` : "", reads[at] > 0.005 ? `read ${percent(reads[at])}` : ""];
        cell.title = [place, ...extra.filter(Boolean)].join(", ");
        cell.setAttribute("aria-label", cell.title);
      });
    });
    const truth = app.state.tokens ? "The quiz was painted, so its true answer is not known" : wrong ? `${wrong} of ${quiz.cells} cells are wrong` : "Every cell written is right";
    said.textContent = `${note}. ${truth}. Log-probability of what is written: ${(likely || 0).toFixed(2).replace("-0.00", "0.00")}.`;
  }

  function renderTools() {
    const all = task.examples.map((_, i) => [i, `quiz ${i + 1}`]);
    const count = (n) => Array.from({ length: n }, (_, i) => [i, i]);
    const again = (part) => {
      Object.assign(quiz.mode, part);
      shownOf = null;
      refresh();
    };
    redraw(tools, h("div.bar", {},
        select("Quiz", all, app.state.example, (i) => app.change({ example: Number(i), tokens: null })),
        select("Copy from", all, app.state.other, (i) => app.change({ other: Number(i), otherTokens: null })),
        app.state.tokens ? button("Its own cells again", () => app.change({ tokens: null })) : null,
        select("Write", [["", "the most probable"], ["1", "a sample"]], quiz.mode.temperature === null ? "" : "1", (v) => again({ temperature: v === "" ? null : 1 })),
        quiz.mode.temperature === null ? null : number("temperature", quiz.mode.temperature, (v) => v > 0 && again({ temperature: v }), { min: 0.05 }),
        quiz.mode.temperature === null ? null : button("Another sample", () => again({ seed: quiz.mode.seed + 1 }))),
      h("div.bar.palette", { role: "group", "aria-label": "Colour to paint with" }, h("span", {}, "Paint"),
        Array.from({ length: task.colours }, (_, c) =>
          button(String(c), () => {
            quiz.brush = c;
            renderTools();
          }, { style: `background:${COLOURS[c]};color:${DARK.includes(c) ? "#fff" : "#111"}`, "aria-pressed": String(c === quiz.brush), "aria-label": `colour ${c}` }))),
      h("div.bar", {}, h("span", {}, "Dots: what is read by"),
        select("layer", count(config.n_layers), quiz.head.layer, (v) => {
          quiz.head.layer = Number(v);
          draw(finished);
        }),
        select("head", count(config.n_heads), quiz.head.head, (v) => {
          quiz.head.head = Number(v);
          draw(finished);
        }),
        h("span", {}, `at ${app.text.names[app.position] ?? app.position}`)),
    );
  }

  function refresh() {
    renderTools();
    if (!buttons.length) build();
    const key = app.text.tokens.join();
    if (shownOf?.now === app.session.now && shownOf.key === key) {
      draw(finished);
      return;
    }
    shownOf = { now: app.session.now, key };
    quiz.write(draw);
  }

  const note = "Paint a cell of the three given grids; the model writes the fourth. Paler cells are less sure, a framed cell is wrong. Click a cell to see what the chosen head reads when the model writes it.";
  return { title: "Quiz", side: "left", open: true, content: h("div", {}, h("p.note", {}, note), tools, board, said), refresh };
}

start((app) => [quizPanel(app), ...commonPanels(app)]);
