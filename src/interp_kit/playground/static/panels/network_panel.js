// The network: layers x (heads, MLP, residual stream) x positions. A click edits, in the way that is chosen.

import { makeEdit } from "../engine/edits.js";
import { h, paint, redraw, roving, select, sequential, short } from "./dom.js";

const WIDEST = 32; // positions that have a column each; of longer texts, the one that is looked at
const TOOLS = {
  Zero: ["zero it", () => ({ kind: "Zero" })],
  Mean: ["mean-ablate it", () => ({ kind: "Mean" })],
  Copy: ["copy it from the other input", () => ({ kind: "Copy" })],
  Flip: ["flip its sign", () => ({ kind: "Scale", factor: -1 })],
  Double: ["double it", () => ({ kind: "Scale", factor: 2 })],
};

export function networkPanel(app) {
  let tool = "Zero";
  let show = "size";
  const content = h("div");
  const { config, task } = app.header;
  const sites = Array.from({ length: config.n_layers }, (_, l) => [
    ["z", l], ...(config.d_mlp === null ? [] : [["mlp_out", l]]), ["resid_post", l],
  ]).flat();

  function refresh() {
    const { text, session } = app;
    const many = text.tokens.length > WIDEST;
    const columns = [null, ...(many ? [app.position] : text.tokens.keys())];
    const read = (pass) =>
      many
        ? session.activationsAt(text.tokens, app.position, sites, pass).map((row) => ({ [app.position]: row }))
        : session.activations(text.tokens, sites, pass);
    const values = read(session.now);
    const former = show === "change" ? read(session.base) : null;
    const at = new Map(sites.map(([site, layer], i) => [`${site}.${layer}`, i]));
    const size = (site, layer, head, position) => {
      const from = (rows, i) => {
        const row = rows[at.get(`${site}.${layer}`)][i];
        return head === null ? row : row.subarray(head * config.d_head, (head + 1) * config.d_head);
      };
      const norm = (i) => {
        const mine = from(values, i);
        if (!former) return Math.hypot(...mine);
        const theirs = from(former, i);
        return Math.hypot(...mine.map((x, c) => x - theirs[c])) / (Math.hypot(...theirs) || 1);
      };
      if (position !== null) return norm(position);
      if (many) return 0; // all positions would have to be computed again
      return text.tokens.reduce((sum, _, i) => sum + norm(i), 0) / text.tokens.length;
    };
    const blocks = Array.from({ length: config.n_layers }, (_, l) => layerTable(l, columns, size));
    const tools = Object.entries(TOOLS).filter(([key]) => task || !["Mean", "Copy"].includes(key));
    redraw(content, h("div.bar", {},
        select("A click will", tools.map(([key, [label]]) => [key, label]), tool, (value) => (tool = value)),
        select("Colour", [["size", "size of the activation"], ["change", "change by the edits"]], show, (value) => {
          show = value;
          refresh();
        })),
      h("p.note", {}, many
        ? "One column edits all positions, one the position that is looked at; choose another in the input."
        : "One column for each position, the first for all of them. Arrow keys move, Enter edits, Enter again takes it back."),
      h("div.layers", {}, blocks.reverse()),
    );
  }

  function layerTable(l, columns, size) {
    const { text } = app;
    const rows = [
      ...Array.from({ length: config.n_heads }, (_, head) => ["z", head, `head ${head}`]),
      ...(config.d_mlp === null ? [] : [["mlp_out", null, "MLP"]]), ["resid_post", null, "resid_post"],
    ];
    const edited = new Set(app.state.edits.map((e) => `${e.site} ${e.layer} ${e.head} ${e.position}`));
    const all = rows.map(([site, head]) => columns.map((position) => size(site, l, head, position)));
    const most = (site) => Math.max(1e-9, ...all.flatMap((sizes, i) => (rows[i][0] === site ? sizes : [])));
    const grid = rows.map(([site, head, label], number) => {
      const sizes = all[number];
      const top = show === "change" ? 1 : most(site);
      return columns.map((column, i) => {
        const position = column === null ? null : (text.names[column] ?? column);
        const place = `layer ${l} ${label} at ${position ?? "all positions"}`;
        const is = edited.has(`${site} ${l} ${head} ${position}`);
        return h("button.cell", {
          type: "button", style: paint(sequential(sizes[i] / top)), "aria-pressed": String(is), title: `${place}: ${short(sizes[i])}`,
          "aria-label": place,
          onclick: () => {
            const had = app.state.edits.find((e) => e.site === site && e.layer === l && e.head === head && e.position === position);
            app.toggleEdit(had ?? makeEdit(site, l, TOOLS[tool][1](), { head, position }));
                      },
        }, is ? "●" : "");
      });
    });
    const heading = (column) => (column === null ? "all" : (text.names[column] ?? String(column)));
    const table = h("table.net", {},
      h("caption", {}, `Layer ${l}`),
      h("thead", {}, h("tr", {}, h("td"), columns.map((column) => h("th", { scope: "col" }, h("span", {}, heading(column)))))),
      h("tbody", {}, rows.map(([, , label], i) => h("tr", {}, h("th", { scope: "row" }, label), grid[i].map((cell) => h("td", {}, cell))))));
    roving(table, grid);
    return h("div.scroll", { tabindex: -1 }, table);
  }

  return { title: "Network", open: true, content, refresh };
}

