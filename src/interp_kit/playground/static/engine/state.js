// What a page shows, as data: in the address behind #, and as Python. {example, tokens, other, edits}: the number of the
// example, the tokens if they are not its own, and the same of the input that is copied from.

import { makeEdit, toPython } from "./edits.js";

export const START = { example: 0, tokens: null, other: 0, otherTokens: null, edits: [] };

export function toHash(state) {
  const short = {};
  for (const key of Object.keys(START)) {
    if (key === "edits" ? state.edits.length : state[key] !== START[key]) short[key] = state[key];
  }
  if (short.edits) {
    short.edits = state.edits.map((edit) => Object.fromEntries(Object.entries(edit).filter(([, v]) => v !== null)));
  }
  return Object.keys(short).length ? `#${encodeURIComponent(JSON.stringify(short))}` : "";
}

// The state of an address. Throws an Error that says why a link is none of this page; edits are checked by Session.
export function fromHash(hash, header) {
  if (!hash || hash === "#") return { ...START };
  let found;
  try {
    found = JSON.parse(decodeURIComponent(hash.replace(/^#/, "")));
  } catch {
    throw new Error("the link is cut off: what follows # in the address is not whole");
  }
  const unknown = Object.keys(found ?? {}).find((key) => !(key in START));
  if (typeof found !== "object" || found === null || unknown) throw new Error("the link is not one of a playground");
  const count = header.task ? header.task.examples.length : 0;
  const { d_vocab, n_ctx } = header.config;
  for (const key of ["example", "other"]) {
    const value = found[key] ?? 0;
    if (!Number.isInteger(value) || value < 0 || value >= Math.max(count, 1)) {
      throw new Error(`the link names input ${value}; this page has 0 to ${Math.max(count, 1) - 1}`);
    }
  }
  for (const key of ["tokens", "otherTokens"]) {
    const isId = (id) => Number.isInteger(id) && id >= 0 && id < d_vocab;
    const value = found[key] ?? null;
    if (value !== null && !(Array.isArray(value) && value.length && value.length <= n_ctx && value.every(isId))) {
      throw new Error(`the link has a text that this model does not read: 1 to ${n_ctx} tokens of 0 to ${d_vocab - 1}`);
    }
  }
  if (found.edits !== undefined && !Array.isArray(found.edits)) throw new Error("the link has no list of edits");
  const edits = (found.edits ?? []).map((e) => makeEdit(e?.site, e?.layer ?? null, e?.source, e ?? {}));
  return { ...START, ...found, edits };
}

// A text {tokens, names, prompt} of an example, with its own tokens or others in their place.
export function textOf(header, number, tokens) {
  const example = header.task?.examples[number];
  if (!example) {
    const own = tokens ?? [0];
    return { tokens: own, names: own.map((_, i) => String(i)), prompt: own.length };
  }
  if (!tokens) return example;
  const names = tokens.map((_, i) => example.names[i] ?? null);
  return { ...example, tokens, names, prompt: Math.min(example.prompt, tokens.length) };
}

// A program that gives the page's numbers.
export function python(header, state) {
  const { task, model } = header;
  const { edits } = state;
  const needs = (kind) => edits.some((edit) => edit.source.kind === kind);
  const masks = [];
  const made = edits.map((edit, i) => toPython(header, edit, i, masks));
  const row = (number, tokens) => {
    const example = `examples[${task.examples[number].index}]`;
    return tokens ? `replace(${example}, tokens=(${tokens.join(", ")},))` : example;
  };
  const batch = (number, tokens) =>
    task ? `task.batch([${row(number, tokens)}])` : `TokenBatch.from_tokens([[${(tokens ?? [0]).join(", ")}]])`;
  const lines = [];
  if (task && (state.tokens || (needs("Copy") && state.otherTokens))) lines.push("from dataclasses import replace", "");
  if (masks.length) lines.push("import torch", "");
  lines.push("import interp_kit as ik");
  if (!task) lines.push("from interp_kit.core.batch import TokenBatch");
  if (model.rounded) lines.push("from interp_kit.playground.export import as_shown");
  const load = `ik.load(${JSON.stringify(model.name)})`;
  lines.push("", `model = ${model.rounded ? `as_shown(${load})` : load}`);
  if (task) {
    const named = task.learned === task.name ? "" : `, ${JSON.stringify(task.address ?? task.name)}`;
    lines.push(`task = ik.task_of(model${named})`, `examples = ${task.expression}`);
  }
  lines.push(`batch = ${batch(state.example, state.tokens)}`);
  if (needs("Copy")) lines.push(`other = ${batch(state.other, state.otherTokens)}`);
  lines.push(...masks);
  const indent = edits.length ? "    " : "";
  if (edits.length) lines.push("edits = [", ...made.map((edit) => `    ${edit},`), "]", "with ik.editing(model, batch, edits):");
  lines.push(`${indent}logits = model(batch.tokens)[0]`);
  lines.push(`${indent}written = ik.complete(model, batch)[0]`, "print(logits.softmax(-1))", "print(written)");
  return `${lines.join("\n")}\n`;
}
