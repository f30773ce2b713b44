// The list of edits, and the program that makes them.

import { describe, makeEdit } from "../engine/edits.js";
import { python } from "../engine/state.js";
import { button, h, number, redraw, select } from "./dom.js";

export function editsPanel(app) {
  const list = h("ol.edits");
  const none = h("p.note", {}, "No edits yet: click a head or an MLP in the network, or a cell of a weight.");
  const form = siteForm(app);
  const refresh = () => {
    const { edits } = app.state;
    none.hidden = edits.length > 0;
    const without = (i) => app.change({ edits: edits.filter((_, j) => j !== i) });
    redraw(list, ...edits.map((edit, i) =>
        h("li", {}, h("code", {}, describe(edit)), " ",
          button("Remove", () => without(i), { "aria-label": `Remove ${describe(edit)}` })),
      ),
    );
    form.refresh();
  };
  return { title: "Edits", side: "left", open: true, content: h("div", {}, none, list, form.content), refresh };
}

// Any activation edit that the kit has, chosen by names.
function siteForm(app) {
  const chosen = { site: "mlp_out", layer: 0, head: "", position: "", neuron: NaN, kind: "Zero", amount: 1 };
  const fields = h("div.bar");
  const { header } = app;
  const set = (key) => (value) => {
    chosen[key] = value;
    refresh();
  };
  const refresh = () => {
    const axes = header.activations[chosen.site];
    const layered = !["embed", "pos_embed"].includes(chosen.site);
    const count = (n) => Array.from({ length: n }, (_, i) => [i, i]);
    const names = app.text.names.map((name, i) => [name ?? i, name ?? i]);
    redraw(fields, ...[
        select("Site", Object.keys(header.activations).map((site) => [site, site]), chosen.site, set("site")),
        layered ? select("layer", count(header.config.n_layers), chosen.layer, set("layer")) : null,
        axes.length > 1 ? select("head", [["", "all"], ...count(header.config.n_heads)], chosen.head, set("head")) : null,
        select("position", [["", "all"], ...names], chosen.position, set("position")),
        number("neuron", Number.isNaN(chosen.neuron) ? "" : chosen.neuron, set("neuron"), { min: 0, step: 1, placeholder: "all" }),
        select("source", ["Zero", "Mean", "Copy", "Scale", "Set", "Add"].map((kind) => [kind, kind]), chosen.kind, set("kind")),
        ["Scale", "Set", "Add"].includes(chosen.kind) ? number("by", chosen.amount, set("amount")) : null,
        button("Add edit", () => app.addEdit(made(axes.length > 1, layered))),
      ].filter(Boolean),
    );
  };
  const made = (headed, layered) => {
    const { site, layer, head, position, neuron, kind, amount } = chosen;
    const source = { kind };
    if (kind === "Scale") source.factor = amount;
    if (kind === "Set" || kind === "Add") source.value = amount;
    if (kind === "Add") source.scale = 1;
    return makeEdit(site, layered ? Number(layer) : null, source, {
      head: headed && head !== "" ? Number(head) : null,
      position: position === "" ? null : app.text.names.includes(position) ? position : Number(position),
      neuron: Number.isNaN(neuron) ? null : neuron,
    });
  };
  return { content: h("details.inner", {}, h("summary", {}, "Edit any site by name"), fields), refresh };
}

export function pythonPanel(app) {
  const code = h("pre.code", { tabindex: 0, "aria-label": "Python program" });
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      app.say("The program is copied.");
    } catch {
      getSelection().selectAllChildren(code);
      app.say("The program is selected: copy it with Ctrl+C.");
    }
  });
  return {
    title: "The same in Python", content: h("div", {}, copy, code),
    refresh: () => (code.textContent = python(app.header, app.state)),
  };
}
