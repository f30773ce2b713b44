// The page: its state, its history, and the panels that show it. A view says what the input and the answer look like.

import { bytesOf } from "../engine/weights.js";
import { Session } from "../engine/session.js";
import { START, fromHash, textOf, toHash } from "../engine/state.js";
import { describe } from "../engine/edits.js";
import { button, h } from "./dom.js";

export class App {
  constructor(header, bytes) {
    this.header = header;
    this.session = new Session(header, bytes);
    this.state = { ...START };
    this.past = [];
    this.future = [];
    this.position = null; // the position that panels look at: an index
    this.panels = [];
    this.status = h("p.status", { role: "status", "aria-live": "polite" });
  }

  get text() {
    return textOf(this.header, this.state.example, this.state.tokens);
  }

  get other() {
    return this.header.task ? textOf(this.header, this.state.other, this.state.otherTokens) : null;
  }

  get vocabulary() {
    return this.header.task?.vocabulary ?? [];
  }

  word(token) {
    return this.vocabulary[token] ?? `#${token}`;
  }

  // Change the state, e.g. {edits}; the one before can be had back. True if it was possible.
  change(part, record = true) {
    this.began = performance.now();
    const former = this.state;
    const wanted = { ...former, ...part };
    try {
      this.session.setEdits(wanted.edits, ...this._texts(wanted));
    } catch (error) {
      this.say(`Not done. ${error.message}`, true);
      this.session.setEdits(former.edits, ...this._texts(former));
      return false;
    }
    this.state = wanted;
    if (record) {
      this.past.push(former);
      this.future = [];
    }
    history.replaceState(null, "", toHash(wanted) || location.pathname + location.search);
    this.refresh();
    return true;
  }

  _texts(state) {
    const { header } = this;
    return [
      textOf(header, state.example, state.tokens),
      header.task ? textOf(header, state.other, state.otherTokens) : null,
    ];
  }

  addEdit(edit) {
    if (this.change({ edits: [...this.state.edits, edit] })) this.say(`Edited: ${describe(edit)}.`);
  }

  // Add an edit, or take away the same one.
  toggleEdit(edit) {
    const key = JSON.stringify(edit);
    const left = this.state.edits.filter((one) => JSON.stringify(one) !== key);
    if (left.length === this.state.edits.length) this.addEdit(edit);
    else if (this.change({ edits: left })) this.say(`Taken back: ${describe(edit)}.`);
  }

  undo() {
    this._travel(this.past, this.future, "Nothing to undo.");
  }

  redo() {
    this._travel(this.future, this.past, "Nothing to redo.");
  }

  _travel(from, to, nothing) {
    const state = from.pop();
    if (!state) {
      this.say(nothing);
      return;
    }
    to.push(this.state);
    this.change(state, false);
  }

  restore() {
    this.began = performance.now();
    try {
      if (!this.change(fromHash(location.hash, this.header), false)) this.refresh();
    } catch (error) {
      this.say(error.message, true);
      this.refresh();
    }
  }

  say(text, fault = false) {
    this.status.textContent = text;
    this.status.classList.toggle("fault", fault);
  }

  look(position) {
    this.position = position;
    this.began = performance.now();
    this.refresh();
  }

  refresh() {
    const { length } = this.text.tokens;
    if (this.position === null || this.position >= length) this.position = Math.max(0, this.text.prompt - 1);
    this.undoButton.disabled = !this.past.length;
    this.redoButton.disabled = !this.future.length;
    for (const panel of this.panels) if (panel.side && panel.element.open) panel.refresh();
    this.time.textContent = `${Math.round(performance.now() - this.began)} ms`;
    clearTimeout(this.later); // the answer is drawn before what is below it is computed
    this.later = setTimeout(() => {
      for (const panel of this.panels) if (!panel.side && panel.element.open) panel.refresh();
      document.body.dataset.ready = String(Number(document.body.dataset.ready ?? 0) + 1);
    }, 0);
  }

  // panels: {title, side, open, refresh(), content}. side: "left" or "right" of the top, none below it. Closed ones are
  // computed when they are opened.
  mount(root, panels) {
    const { model, config, tensors, task } = this.header;
    const size = tensors.reduce((sum, t) => sum + t.shape.reduce((a, b) => a * b, 1), 0);
    const facts = [
      `${config.n_layers} layers`, `${config.n_heads} heads`, `${config.d_model} wide`,
      `${size.toLocaleString("en")} parameters`, task ? `task ${task.name}` : "no task known",
      model.rounded ? "weights rounded to float16" : "",
    ];
    this.undoButton = button("Undo", () => this.undo());
    this.redoButton = button("Redo", () => this.redo());
    this.time = h("span.time", { title: "Time from the last change to the new answer" });
    this.panels = panels.map((panel) => {
      const element = h("details.panel", { open: panel.open },
        h("summary", {}, h("h2", {}, panel.title)), panel.content);
      let open = Boolean(panel.open);
      element.addEventListener("toggle", () => {
        if (element.open && !open) panel.refresh(); // the event also comes for panels that begin open
        open = element.open;
      });
      return { ...panel, element };
    });
    const on = (side) => this.panels.filter((panel) => panel.side === side).map((panel) => panel.element);
    root.append(
      h("header", {}, h("h1", {}, model.name), h("p.facts", {}, facts.filter(Boolean).join(" · ")),
        h("div.bar", {}, this.undoButton, this.redoButton,
          button("Reset", () => this.change({ edits: [] }) && this.say("All edits are gone; Undo brings them back.")),
          button("Share", () => this.share()), this.time),
        this.status),
      h("div.top", {}, h("div", {}, on("left")), h("div", {}, on("right"))),
      h("div", {}, on(undefined)),
    );
    document.addEventListener("keydown", (event) => {
      if (!(event.ctrlKey || event.metaKey) || event.target.matches("input, select, textarea")) return;
      const key = event.key.toLowerCase();
      if (key === "z" || key === "y") {
        event.preventDefault();
        if (key === "y" || event.shiftKey) this.redo();
        else this.undo();
      }
    });
    window.addEventListener("hashchange", () => this.restore());
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.refresh());
    this.restore();
  }

  async share() {
    const kept = `The link in the address bar holds this state: ${location.href}`;
    try {
      await navigator.clipboard.writeText(location.href);
      this.say(`Copied. ${kept}`);
    } catch {
      this.say(kept); // no permission to copy: the link can be selected
    }
  }
}

// Read the page's data and build it. panels(app): in their order.
export function start(panels) {
  const header = JSON.parse(document.getElementById("header").textContent);
  const app = new App(header, bytesOf(document.getElementById("weights").textContent));
  app.mount(document.getElementById("page"), panels(app));
  return app;
}
