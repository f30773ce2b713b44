// An edit as data, with the names of interp_kit.Edit: {site, layer, head, position, neuron, region, source}. region, of
// weights: [from, to) for each axis, the kit's `mask`. source: {kind: "Zero" | "Mean" | "Copy"}, {kind: "Scale", factor},
// {kind: "Set", value}, {kind: "Add", value, scale}.

import { rangesOf } from "./weights.js";

export const KINDS = ["Zero", "Mean", "Copy", "Scale", "Set", "Add"];
const OF_WEIGHTS = ["Zero", "Scale", "Set", "Add"];

export function makeEdit(site, layer, source, { head = null, position = null, neuron = null, region = null } = {}) {
  return { site, layer, head, position, neuron, region, source };
}

export const isWeight = (header, edit) => Object.hasOwn(header.weights, edit.site);

// The sizes of the axes behind batch and pos at a site.
export const axesOf = (header, site) =>
  header.activations[site].map((axis) => (axis === "head" ? header.config.n_heads : header.config[axis]));

export function shapeOf(header, edit) {
  const name = header.weights[edit.site].parameter.replace("{layer}", edit.layer);
  const tensor = header.tensors.find((one) => one.name === name);
  if (!tensor) throw new Error(`${describe(edit)}: the model has no parameter ${name}`);
  return tensor.shape;
}

const isCount = (value, below) => Number.isInteger(value) && value >= 0 && value < below;
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

// Throw an Error that says what of an edit does not fit the model or the text. What comes from a link is checked here.
export function checkEdit(header, edit, text, other) {
  const fail = (why) => {
    throw new Error(`${describe(edit)}: ${why}`);
  };
  const { config } = header;
  const weight = isWeight(header, edit);
  if (!weight && !Object.hasOwn(header.activations, edit.site)) fail("the model has no such site");
  const layered = weight
    ? header.weights[edit.site].parameter.includes("{layer}")
    : !["embed", "pos_embed"].includes(edit.site);
  if (layered !== (edit.layer !== null)) fail(layered ? "a layer is missing" : "the site has no layer");
  if (layered && !isCount(edit.layer, config.n_layers)) fail(`the model has layers 0 to ${config.n_layers - 1}`);
  const { kind, value } = edit.source ?? {};
  if (!KINDS.includes(kind)) fail(`the source is none of ${KINDS.join(", ")}`);
  const headed = weight ? header.weights[edit.site].heads : axesOf(header, edit.site).length > 1;
  if (edit.head !== null && !(headed && isCount(edit.head, config.n_heads))) fail("there is no such head");
  const shape = weight ? shapeOf(header, edit) : axesOf(header, edit.site);
  const width = shape[shape.length - 1];
  if (edit.neuron !== null && !isCount(edit.neuron, width)) fail(`the last axis has entries 0 to ${width - 1}`);
  if (kind === "Scale" && !isNumber(edit.source.factor)) fail("factor must be a finite number");
  if (kind === "Add" && !isNumber(edit.source.scale)) fail("scale must be a finite number");
  const vector = Array.isArray(value) && !weight && edit.neuron === null;
  if (["Set", "Add"].includes(kind) && !(vector ? value.length === width && value.every(isNumber) : isNumber(value))) {
    fail(`value must be a finite number${weight ? "" : `, or ${width} of them`}`);
  }
  if (weight) {
    if (!OF_WEIGHTS.includes(kind)) fail(`a weight takes ${OF_WEIGHTS.join(", ")}`);
    if (edit.position !== null) fail("a weight has no position");
    const fits = (range, axis) =>
      Array.isArray(range) && isCount(range[0], shape[axis]) && isCount(range[1] - 1, shape[axis]) && range[0] < range[1];
    if (edit.region && !(edit.region.length === shape.length && edit.region.every(fits))) {
      fail(`a region is [from, to) within ${shape.join(" x ")}`);
    }
    return;
  }
  if (edit.region) fail("a region is of a weight");
  indexOf(edit.position, text);
  if (kind === "Mean" && !header.task) fail("there are no examples to average");
  if (kind === "Copy") {
    if (!other) fail("there is no other input to copy from");
    if (other.tokens.length !== text.tokens.length) {
      fail(`the other input has ${other.tokens.length} tokens, this one ${text.tokens.length}; they must be of equal length`);
    }
    if (typeof edit.position === "string" && other.names.indexOf(edit.position) !== indexOf(edit.position, text)) {
      fail(`position ${edit.position} stands elsewhere in the other input`);
    }
  }
}

// The index of a position, named or a number; null for all. Throws an Error if the text has none.
export function indexOf(position, text) {
  if (position === null) return null;
  const at = typeof position === "string" ? text.names.indexOf(position) : position;
  if (!isCount(at, text.tokens.length)) throw new Error(`the text has no position ${position}`);
  return at;
}

export function describeSource({ kind, factor, value, scale }) {
  const shown = Array.isArray(value) ? "vector" : value;
  if (kind === "Scale") return factor === -1 ? "flipped" : `× ${factor}`;
  if (kind === "Set") return `= ${shown}`;
  if (kind === "Add") return `+ ${scale === 1 ? "" : `${scale} × `}${shown}`;
  return { Zero: "zero", Mean: "mean", Copy: "copied" }[kind] ?? "by an unknown source";
}

export function describe(edit) {
  const parts = [edit.site];
  if (edit.layer !== null) parts.push(`layer ${edit.layer}`);
  if (edit.head !== null) parts.push(`head ${edit.head}`);
  if (edit.neuron !== null) parts.push(`neuron ${edit.neuron}`);
  if (edit.position !== null) parts.push(`at ${edit.position}`);
  if (edit.region) parts.push(`[${edit.region.map(([a, b]) => (b === a + 1 ? a : `${a}:${b}`)).join(", ")}]`);
  return `${parts.join(" ")} ${describeSource(edit.source ?? {})}`;
}

// Activation edits as a Pass makes them. reference(edit, at): what is copied or averaged, (width,) at a position.
export function compileEdits(header, edits, text, reference) {
  return edits.map((edit) => {
    const axes = axesOf(header, edit.site);
    const width = axes[axes.length - 1];
    const heads = axes.length > 1 ? axes[0] : 1;
    const columns = [];
    for (let h = 0; h < heads; h++) {
      if (edit.head !== null && edit.head !== h) continue;
      for (let c = 0; c < width; c++) if (edit.neuron === null || edit.neuron === c) columns.push(h * width + c);
    }
    const position = indexOf(edit.position, text);
    const { length } = text.tokens;
    const { kind, factor, value, scale } = edit.source;
    const given = (c) => (Array.isArray(value) ? value[c % width] : value);
    const change = {
      Zero: () => 0,
      Scale: (old) => old * factor,
      Set: (_, c) => given(c),
      Add: (old, c) => old + scale * Math.fround(given(c)),
      Mean: (_, c, row) => row[c],
      Copy: (_, c, row) => row[c],
    }[kind];
    const referred = kind === "Mean" || kind === "Copy" ? reference(edit, position) : null;
    return {
      key: `${edit.site}.${edit.layer}`,
      start: edit.layer ?? -1,
      position,
      write(row, pos) {
        if (position === null ? pos >= length : pos !== position) return; // text behind the example's is not edited
        const from = referred?.(pos);
        for (const c of columns) row[c] = change(row[c], c, from);
      },
    };
  });
}

// The lines of Python that make an edit; masks: lines that come before, added to.
export function toPython(header, edit, number, masks) {
  const text = JSON.stringify;
  const float = (x) => (Number.isInteger(x) && !String(x).includes("e") ? `${x}.0` : String(x));
  const numbers = (value) => (Array.isArray(value) ? `[${value.map(float).join(", ")}]` : float(value));
  const { kind, factor, value, scale } = edit.source;
  const source = {
    Zero: () => "ik.Zero()",
    Mean: () => "ik.Mean(over=task.batch(examples))",
    Copy: () => "ik.Copy(other)",
    Scale: () => `ik.Scale(${float(factor)})`,
    Set: () => `ik.Set(${numbers(value)})`,
    Add: () => `ik.Add(${numbers(value)}, ${float(scale)})`,
  }[kind]();
  const parts = [text(edit.site), edit.layer === null ? "None" : edit.layer, source];
  if (edit.head !== null && !edit.region) parts.push(`head=${edit.head}`);
  if (edit.position !== null) parts.push(`position=${text(edit.position)}`);
  if (edit.neuron !== null && !edit.region) parts.push(`neuron=${edit.neuron}`);
  if (edit.region) {
    const shape = shapeOf(header, edit);
    const ranges = rangesOf(edit, shape).map(([a, b]) => `${a}:${b}`);
    masks.push(`mask_${number} = torch.zeros(${shape.join(", ")}, dtype=torch.bool)`);
    masks.push(`mask_${number}[${ranges.join(", ")}] = True`);
    parts.push(`mask=mask_${number}`);
  }
  return `ik.Edit(${parts.join(", ")})`;
}
