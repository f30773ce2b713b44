// Heat maps of weights. A cell or a dragged region is chosen; what is done to it is an edit with a mask.

import { makeEdit, shapeOf } from "../engine/edits.js";
import { button, diverging, h, number, redraw, select, short } from "./dom.js";

const WINDOW = 512; // rows and columns that are drawn at once

export function weightsPanel(app) {
  const { header } = app;
  const { config } = header;
  const view = { site: "W_Q", layer: 0, head: 0, row: 0, col: 0, value: 0 };
  let chosen = null; // [row, row, col, col], ends included, of the whole weight
  const canvas = h("canvas", {
    tabindex: 0, role: "application",
    "aria-label": "Weights: arrow keys move, with Shift they extend, Enter flips the sign, Delete sets to zero",
  });
  const tools = h("div.bar");
  const actions = h("div.bar");
  const facts = h("p.note");
  const picked = h("p.picked", { "aria-live": "polite" });
  const frame = h("div.scroll", {}, canvas);
  const sites = Object.keys(header.weights).filter((site) =>
    header.tensors.some((t) => t.name === header.weights[site].parameter.replace("{layer}", 0)));
  const layered = () => header.weights[view.site].parameter.includes("{layer}");
  const layer = () => (layered() ? view.layer : null);

  // The matrix that is looked at: rows, cols, the number at (r, c), and the edit of a region.
  function matrix() {
    const shape = shapeOf(header, makeEdit(view.site, layer(), { kind: "Zero" }));
    const name = header.weights[view.site].parameter.replace("{layer}", layer());
    const now = app.session.now.net.params.get(name).data;
    const former = app.session.net.params.get(name).data;
    const [rows, cols] = shape.length === 1 ? [1, shape[0]] : shape.slice(-2);
    const from = shape.length === 3 ? view.head * rows * cols : 0;
    const headed = header.weights[view.site].heads;
    const region = ([r0, r1, c0, c1]) => [
      ...(shape.length === 3 ? [[view.head, view.head + 1]] : []),
      ...(shape.length === 1 ? [] : [[r0, r1 + 1]]), [c0, c1 + 1],
    ];
    return { rows, cols, from, now, former, region, perHead: shape.length === 3, headed };
  }

  function refresh() {
    const m = matrix();
    const set = (key) => (value) => {
      view[key] = ["site"].includes(key) ? value : Math.max(0, Number(value) || 0);
      chosen = null;
      refresh();
    };
    const count = (n) => Array.from({ length: n }, (_, i) => [i, i]);
    view.row = Math.min(view.row, m.rows - 1);
    view.col = Math.min(view.col, m.cols - 1);
    redraw(tools, ...[
        select("Weight", sites.map((site) => [site, site]), view.site, set("site")),
        layered() ? select("layer", count(config.n_layers), view.layer, set("layer")) : null,
        m.perHead ? select("head", count(config.n_heads), view.head, set("head")) : null,
        m.rows > WINDOW ? number("first row", view.row, set("row"), { min: 0, step: 1 }) : null,
        m.cols > WINDOW ? number("first column", view.col, set("col"), { min: 0, step: 1 }) : null,
      ].filter(Boolean),
    );
    const part = m.now.subarray(m.from, m.from + m.rows * m.cols);
    const mean = part.reduce((a, b) => a + b, 0) / part.length;
    const std = Math.sqrt(part.reduce((a, b) => a + (b - mean) ** 2, 0) / part.length);
    let [low, high] = [0, 0];
    part.forEach((x, i) => {
      if (x < part[low]) low = i;
      if (x > part[high]) high = i;
    });
    const place = (i) => `(${Math.floor(i / m.cols)}, ${i % m.cols})`;
    facts.textContent = `${m.rows} × ${m.cols}, mean ${short(mean)}, std ${short(std)}, least ${short(part[low])} at ${place(low)}, most ${short(part[high])} at ${place(high)}. Blue is below 0, orange above, full colour from 3 std.`;
    const shown = draw(m, 3 * std || 1);
    pointers(m, shown);
    renderActions(m);
  }

  function draw(m, top) {
    const rows = Math.min(WINDOW, m.rows - view.row);
    const cols = Math.min(WINDOW, m.cols - view.col);
    const scale = Math.max(3, Math.min(24, Math.floor(900 / Math.max(rows, cols))));
    canvas.width = cols * scale;
    canvas.height = rows * scale;
    const context = canvas.getContext("2d");
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < cols; c++) {
        const at = m.from + (r + view.row) * m.cols + c + view.col;
        context.fillStyle = `rgb(${diverging(m.now[at] / top).join(",")})`;
        context.fillRect(c * scale, r * scale, scale, scale);
        if (m.now[at] !== m.former[at]) {
          context.strokeStyle = getComputedStyle(canvas).color;
          context.strokeRect(c * scale + 0.5, r * scale + 0.5, scale - 1, scale - 1);
        }
      }
    }
    if (chosen) {
      const [r0, r1, c0, c1] = chosen;
      context.lineWidth = 2;
      context.strokeStyle = getComputedStyle(canvas).accentColor;
      context.strokeRect((c0 - view.col) * scale, (r0 - view.row) * scale, (c1 - c0 + 1) * scale, (r1 - r0 + 1) * scale);
    }
    return { rows, cols, scale };
  }

  function choose(m, from, to) {
    const sort = (a, b) => [Math.min(a, b), Math.max(a, b)];
    chosen = [...sort(from[0], to[0]), ...sort(from[1], to[1])];
    anchor = from;
    focus = to;
    refresh();
  }

  let anchor = [0, 0];
  let focus = [0, 0];

  function pointers(m, { rows, cols, scale }) {
    const cellOf = (event) => {
      const box = canvas.getBoundingClientRect();
      const clamp = (x, n) => Math.max(0, Math.min(n - 1, Math.floor(x / scale)));
      return [clamp(event.clientY - box.top, rows) + view.row, clamp(event.clientX - box.left, cols) + view.col];
    };
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      choose(m, cellOf(event), cellOf(event));
    };
    canvas.onpointermove = (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) choose(m, anchor, cellOf(event));
    };
    canvas.onkeydown = (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (step) {
        event.preventDefault();
        const inside = (x, from, n) => Math.max(from, Math.min(from + n - 1, x));
        const next = [inside(focus[0] + step[0], view.row, rows), inside(focus[1] + step[1], view.col, cols)];
        choose(m, event.shiftKey ? anchor : next, next);
      } else if (chosen && (event.key === "Enter" || event.key === "Delete")) {
        event.preventDefault();
        apply(m, event.key === "Enter" ? { kind: "Scale", factor: -1 } : { kind: "Zero" });
      }
    };
  }

  function apply(m, source) {
    app.addEdit(makeEdit(view.site, layer(), source, { region: m.region(chosen) }));
  }

  function renderActions(m) {
    const act = (label, source) => button(label, () => apply(m, source()), { disabled: !chosen });
    redraw(actions, act("Flip sign", () => ({ kind: "Scale", factor: -1 })), act("Zero", () => ({ kind: "Zero" })),
      act("Double", () => ({ kind: "Scale", factor: 2 })),
      number("value", view.value, (value) => (view.value = value)),
      act("Set to value", () => ({ kind: "Set", value: view.value })),
      button("Choose all", () => choose(m, [0, 0], [m.rows - 1, m.cols - 1])),
    );
    if (!chosen) {
      picked.textContent = "Click a cell, or drag over a region.";
      return;
    }
    const [r0, r1, c0, c1] = chosen;
    const at = m.from + r0 * m.cols + c0;
    picked.textContent =
      r0 === r1 && c0 === c1
        ? `Cell (${r0}, ${c0}): ${m.now[at]}${m.now[at] === m.former[at] ? "" : `, trained ${m.former[at]}`}`
        : `Rows ${r0} to ${r1}, columns ${c0} to ${c1}: ${(r1 - r0 + 1) * (c1 - c0 + 1)} weights`;
  }

  return { title: "Weights", content: h("div", {}, tools, facts, frame, picked, actions), refresh };
}
