// The list of slides: search, sort, what a model says of each, and what is wrong with some.
import { getJson } from "./api.js";
import { $, make, options } from "./dom.js";
import { labelWord, score } from "./format.js";
import { fail, say } from "./status.js";

const ORDERS = { score: "Score", doubt: "Uncertainty", wrong: "Wrong, errors", name: "Name", label: "Label", split: "Split" };

export class SlideList extends EventTarget {
  constructor(threshold) {
    super();
    this.threshold = threshold ?? 0.5;
    this.slides = [];
    this.revision = null;
    this.current = null;
    this.order = null;
    $("search").addEventListener("input", () => this.render());
    $("order").addEventListener("change", () => { this.order = $("order").value; this.render(); });
    $("slides").addEventListener("click", (event) => {
      const button = event.target.closest("button[data-id]");
      if (button) this.choose(button.dataset.id);
    });
  }

  choose(id) {
    this.dispatchEvent(new CustomEvent("choose", { detail: this.find(id) }));
  }

  find(id) {
    return this.slides.find((each) => each.id === id);
  }

  // Asks again for as long as the page is open; slides that appear later are found.
  async watch() {
    let wait_s = 5;
    try {
      await this.load();
      wait_s = this.complete ? 5 : 1;
      this.isGone = false;
    } catch (error) {
      if (!this.isGone) fail(error);
      this.isGone = true;
    }
    setTimeout(() => this.watch(), document.hidden ? 20000 : wait_s * 1000);
  }

  async load() {
    const found = await getJson("/slides");
    this.complete = found.complete;
    if (found.revision === this.revision) return;
    const before = this.slides.length, isFirst = this.revision === null;
    this.revision = found.revision;
    this.slides = found.slides;
    this.columns = found.columns;
    this.offerOrders();
    this.render();
    if (!isFirst && this.slides.length > before) say(`${this.slides.length - before} new slides`);
    this.dispatchEvent(new Event("loaded"));
  }

  offerOrders() {
    const has = (name) => this.columns.includes(name);
    const pairs = Object.entries(ORDERS).filter(([id]) =>
      id === "name" || (id === "wrong" ? has("decision") || this.slides.some((each) => each.error) : has(id === "doubt" ? "score" : id)));
    const extra = this.columns.filter((name) => !["label", "split", "score", "decision"].includes(name)).map((name) => [name, name]);
    this.order ??= has("score") ? "score" : "name";
    options($("order"), [...pairs, ...extra], this.order);
  }

  shown() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (each) => [each.name, each.split, labelWord(each.label), each.wrong ? "wrong" : "", each.error ? "error" : "", each.patient, ...Object.values(each.extra)].join(" ").toLowerCase();
    const named = this.slides.some((each) => typeof each.label === "string");
    const found = this.slides.filter((each) => words.every((word) => text(each).includes(word)));
    const key = {
      score: (each) => -(each.score ?? -1), doubt: (each) => Math.abs((each.score ?? 9) - this.threshold),
      wrong: (each) => (each.wrong ? 0 : each.error ? 1 : 2), name: (each) => each.name, label: (each) => (named ? each.label ?? "~" : -(each.label ?? -1)), split: (each) => each.split ?? "~",
    }[this.order] ?? ((each) => each.extra[this.order] ?? each[this.order] ?? "~");
    return found.sort((a, b) => compare(key(a), key(b)) || compare(a.name, b.name));
  }

  render() {
    const shown = this.shown(), focused = document.activeElement?.dataset?.id;
    $("slides").replaceChildren(...shown.map((each) => make("li", {}, this.line(each))));
    $("count").textContent = shown.length === this.slides.length ? `${shown.length} slides` : `${shown.length} of ${this.slides.length} slides`;
    if (focused) this.button(focused)?.focus({ preventScroll: true });
    $("empty").hidden = shown.length > 0;
    $("empty").textContent = this.slides.length ? "No slide matches." : "There are no slides here yet; they appear by themselves.";
  }

  line(slide) {
    const facts = [slide.label !== null && ["label", labelWord(slide.label)], slide.split && ["split", slide.split],
      slide.wrong && ["wrong", "wrong decision"], slide.warning && !slide.error && ["warning", "note"]].filter(Boolean);
    const bar = slide.score === null ? null : make("span", { class: "score" }, make("span", { class: "bar" }, this.fill(slide)), make("span", { text: score(slide.score) }));
    return make("button", {
      type: "button", data: { id: slide.id }, class: `slide${slide.error ? " broken" : ""}${slide.wrong ? " is-wrong" : ""}`,
      "aria-current": slide.id === this.current ? "true" : null, title: slide.warning || slide.name,
    },
    slide.error ? make("span", { class: "thumb", text: "!" }) : make("img", { class: "thumb", alt: "", loading: "lazy", decoding: "async", src: `${slide.thumbnail}&max_px=128` }),
    make("span", { class: "words" },
      make("span", { class: "name", text: slide.name }),
      slide.error ? make("span", { class: "error", text: slide.error }) : make("span", { class: "facts" }, ...facts.map(([kind, text]) => make("span", { class: kind, text })))),
    bar);
  }

  fill(slide) {
    const part = make("span", {});
    part.style.width = `${Math.round(100 * Math.max(0, Math.min(1, slide.score)))}%`;
    return part;
  }

  button(id) {
    return $("slides").querySelector(`button[data-id="${CSS.escape(id)}"]`);
  }

  // Asks for the small picture of a slide again.
  renew(id) {
    const picture = this.button(id)?.querySelector("img");
    if (picture) picture.src += "&read=1";
  }

  mark(id) {
    this.current = id;
    for (const each of $("slides").querySelectorAll("[aria-current]")) each.removeAttribute("aria-current");
    const button = this.button(id);
    button?.setAttribute("aria-current", "true");
    button?.scrollIntoView({ block: "nearest" });
  }

  // The next slide as the list is sorted and searched now.
  step(by) {
    const shown = this.shown(), at = shown.findIndex((each) => each.id === this.current);
    const next = shown[at < 0 ? 0 : at + by];
    if (next) this.choose(next.id);
    else say(by > 0 ? "This is the last slide" : "This is the first slide");
  }
}

const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
