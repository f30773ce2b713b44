// Elements, and the colours of heat maps.

// h("p.note", {attributes}, children…): an element. on… attributes are listeners; a child may be text, element or null.
export function h(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const button = (label, onclick, attributes = {}) => h("button", { type: "button", onclick, ...attributes }, label);

// Put new children into an element; what had the focus there, by its number among what can have it, keeps it.
export function redraw(container, ...children) {
  const able = "button, select, input, canvas, summary, [tabindex]";
  const number = [...container.querySelectorAll(able)].indexOf(document.activeElement);
  container.replaceChildren(...children.flat().filter(Boolean));
  if (number >= 0) container.querySelectorAll(able)[number]?.focus({ preventScroll: true });
}

// A labelled choice. options: [value, text] each.
export function select(label, options, value, onchange) {
  const list = h(
    "select", { onchange: () => onchange(list.value) },
    options.map(([key, text]) => h("option", { value: key, selected: String(key) === String(value) }, text)),
  );
  return h("label", {}, `${label} `, list);
}

export function number(label, value, onchange, attributes = {}) {
  const field = h("input", { type: "number", value, step: "any", ...attributes });
  field.addEventListener("change", () => onchange(field.valueAsNumber));
  return h("label", {}, `${label} `, field);
}

// Token text for the eye: spaces and line ends are written out.
export const shown = (text) => (text === undefined ? "" : text.replaceAll(" ", "␣").replaceAll("\n", "↵"));

export const percent = (p) => (p > 0.9995 ? "100 %" : p < 0.0005 ? "<0.1 %" : `${(100 * p).toFixed(p > 0.1 ? 0 : 1)} %`);

export const short = (x) => (x === 0 ? "0" : Math.abs(x) >= 1000 || Math.abs(x) < 0.001 ? x.toExponential(1) : x.toPrecision(3));

const dark = () => window.matchMedia("(prefers-color-scheme: dark)").matches;

// Blue below 0, orange above, the page's own shade at 0: told apart by all kinds of colour vision. x: -1 to 1.
export function diverging(x) {
  const t = Math.min(1, Math.abs(x)) ** 0.8;
  const centre = dark() ? [32, 38, 45] : [247, 247, 247];
  const end = x < 0 ? (dark() ? [86, 180, 233] : [0, 90, 160]) : dark() ? [240, 150, 40] : [190, 85, 0];
  return centre.map((c, i) => Math.round(c + t * (end[i] - c)));
}

// From the page's own shade at 0 to blue at 1.
export const sequential = (x) => diverging(-Math.max(0, x));

export const css = (rgb) => `rgb(${rgb.join(" ")})`;

// Black or white, whichever is read on a colour.
export const inkOn = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#111" : "#fff");

export const paint = (rgb) => `background:${css(rgb)};color:${inkOn(rgb)}`;

// Arrow keys move within a grid of elements [row][column]; one of them is in the order of tabs.
export function roving(container, grid) {
  const all = grid.flat();
  all.forEach((cell, i) => (cell.tabIndex = i ? -1 : 0));
  container.addEventListener("focusin", (event) => {
    if (!all.includes(event.target)) return;
    for (const cell of all) cell.tabIndex = cell === event.target ? 0 : -1;
  });
  container.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const row = grid.findIndex((cells) => cells.includes(event.target));
    if (!step || row < 0) return;
    const next = grid[row + step[0]]?.[grid[row].indexOf(event.target) + step[1]];
    if (next) {
      event.preventDefault();
      next.focus();
    }
  });
}
