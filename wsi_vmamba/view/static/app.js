// The parts of the page and how they hang together: one or two views, of which one is worked on.
import { hang } from "./curtain.js";
import { $, throttle } from "./dom.js";
import { DrawingsPanel } from "./drawings_panel.js";
import { isNarrow, setUpFolds } from "./folds.js";
import { labelWord, score, short } from "./format.js";
import { Gallery } from "./gallery.js";
import { Inspector } from "./inspector.js";
import { LayersPanel } from "./layers_panel.js";
import { Link } from "./linked.js";
import { SlideList } from "./list.js";
import { indexAt } from "./raster.js";
import { showAbout, showPoint, showScale } from "./readout.js";
import { SlideView } from "./slide_view.js";
import { hush, say } from "./status.js";
import { TOOLS, Tools } from "./tools.js";
import * as url from "./url.js";

export class App {
  constructor(session) {
    $("opened").textContent = session.title;
    document.body.classList.toggle("can-draw", session.can_draw);
    this.list = new SlideList(session.threshold);
    this.tools = new Tools();
    this.layers = new LayersPanel();
    this.gallery = new Gallery();
    this.inspector = new Inspector();
    this.drawings = new DrawingsPanel(session, this.tools);
    this.write = throttle(() => this.writeNow(), 300);
    this.fold = setUpFolds(() => this.write());
    this.views = [];
    this.linked = null;
    this.addView("first");
    this.list.addEventListener("choose", ({ detail }) => this.open(detail));
    this.tools.addEventListener("change", () => this.showTool());
    this.gallery.addEventListener("choose", ({ detail: { view, patch } }) => this.visit(view, patch));
    this.inspector.addEventListener("elsewhere", ({ detail }) => this.elsewhere(detail));
    this.inspector.addEventListener("opened", () => {
      $("inspector").open = true;
      $("inspector").scrollIntoView({ block: "nearest" });
    });
  }

  async start() {
    await this.list.load();
    this.list.watch();
    this.list.addEventListener("loaded", () => this.view.id === null && this.restore());
    await this.restore();
  }

  // Shows what the address says; else the first slide of the list.
  async restore() {
    const { panes, linked } = url.read(location.hash);
    const known = panes.filter((each) => this.list.find(each.slide));
    if (!known.length) {
      const first = this.list.shown().find((each) => !each.error) ?? this.list.slides[0];
      if (first) await this.open(first, { replace: true });
      return;
    }
    if ((known.length > 1) !== (this.views.length > 1)) this.setPair(known.length > 1);
    this.isRestoring = true;
    try {
      await Promise.all(known.map((each, index) => this.restoreOne(this.views[index], each)));
    } finally {
      this.isRestoring = false;
    }
    if (this.linked) this.turnLink(linked);
    this.use(this.views[0]);
  }

  async restoreOne(view, { slide, place, look, outlines }) {
    if (view.id !== slide) {
      await view.show(this.list.find(slide), { place, look, outlines });
      return;
    }
    if (place) view.pane.go(place, true);
    view.heat.set(look);
    view.outlines.shown = new Set(outlines);
    await view.outlines.load();
  }

  addView(name) {
    const view = new SlideView(name);
    this.views.push(view);
    hang(view);
    this.tools.attach(view);
    view.pane.addEventListener("used", () => this.use(view));
    view.pane.addEventListener("opened", () => this.showSlide());
    view.pane.addEventListener("refused", () => this.showSlide());
    view.pane.addEventListener("press", ({ detail }) => detail && this.inspect(view, detail));
    view.pane.addEventListener("point", ({ detail }) => this.showPoint(view, detail));
    view.pane.addEventListener("view", ({ detail }) => {
      if (view === this.view) showScale(view.pane, detail);
      this.write();
      this.showBusy();
    });
    view.pane.addEventListener("loaded", () => this.showBusy());
    for (const kind of ["layers", "slide"]) view.addEventListener(kind, () => this.showBusy());
    for (const kind of ["change", "loading"]) view.heat.addEventListener(kind, () => { this.write(); this.showBusy(); });
    view.outlines.addEventListener("change", () => this.write());
    this.use(view);
    return view;
  }

  // Makes a view the one that the panels and keys are about.
  use(view) {
    if (this.view === view) return;
    this.view = view;
    for (const each of this.views) each.pane.root.classList.toggle("is-used", each === view && this.views.length > 1);
    for (const part of [this.layers, this.gallery, this.drawings]) part.attach(view);
    this.showSlide();
  }

  async open(slide, { replace = false } = {}) {
    if (!replace) this.writeNow();
    if (isNarrow()) this.fold("left", false, false);
    this.list.mark(slide.id);
    this.inspector.clear(this.view);
    const shown = this.view.show(slide);
    history[replace ? "replaceState" : "pushState"](null, "", url.write(this.views.map((each) => each.state()), { linked: this.linked?.on }));
    await shown;
  }

  showSlide() {
    const { id, pane } = this.view, slide = id && this.list.find(id);
    this.list.mark(id);
    if (!slide) return;
    $("title").textContent = slide.name;
    document.title = `${slide.name} · wsi-vmamba`;
    const words = [slide.split, slide.label !== null && labelWord(slide.label), slide.score !== null && `score ${score(slide.score)}`, slide.decision !== null && !slide.wrong && `called ${labelWord(slide.decision)}`, slide.wrong && `called ${labelWord(slide.decision)}, which is wrong`];
    $("verdict").textContent = words.filter(Boolean).join(" · ");
    $("verdict").classList.toggle("is-wrong", slide.wrong);
    $("side-title").textContent = slide.name;
    $("flip").setAttribute("aria-pressed", String(!!pane.slide && pane.viewer.viewport.getFlip()));
    if (pane.slide) {
      showAbout(pane.slide);
      pane.viewer.canvas.setAttribute("aria-label", `Slide ${slide.name}; arrow keys move it, plus and minus zoom, question mark lists all keys`);
    }
  }

  showBusy() {
    $("stage").setAttribute("aria-busy", String(this.views.some((each) => each.isBusy())));
  }

  showPoint(view, at) {
    const { raster } = view.heat, index = at && raster?.values ? indexAt(raster, at.x, at.y) : -1;
    const classes = raster?.about.classes?.find((each) => each.value === raster.values[index])?.name;
    showPoint(view.pane, at, index < 0 ? "" : classes ?? `${raster.about.title} ${short(raster.values[index])}`);
  }

  showTool() {
    for (const button of document.querySelectorAll("[data-choose]")) {
      button.setAttribute("aria-pressed", String(button.dataset.choose === this.tools.tool));
    }
    $("hint").hidden = !this.tools.hint;
    $("hint").textContent = `${TOOLS[this.tools.tool]}: ${this.tools.hint}`;
  }

  visit(view, patch) {
    if (isNarrow()) this.fold("right", false, false);
    view.flyTo(patch);
    this.inspector.open(view, patch.index);
  }

  async inspect(view, at) {
    await this.inspector.at(view, at);
    if (isNarrow() && view.patch) this.fold("right", true, false);
  }

  async elsewhere(patch) {
    const { view } = this;
    if (view.id !== patch.slide) await this.open(this.list.find(patch.slide));
    this.visit(view, patch);
  }

  writeNow() {
    if (this.isRestoring || !this.views.every((each) => each.id)) return;
    const text = url.write(this.views.map((each) => each.state()), { linked: this.linked?.on });
    if (text !== location.hash) history.replaceState(null, "", text);
  }

  pan(x, y) {
    const { pane } = this.view;
    if (!pane.slide) return;
    const { viewport } = pane.viewer, size = viewport.getContainerSize();
    const step = viewport.deltaPointsFromPixels(new window.OpenSeadragon.Point(x * size.x * 0.15 * (viewport.getFlip() ? -1 : 1), y * size.y * 0.15));
    viewport.panBy(step);
    viewport.applyConstraints();
  }

  zoom(factor) {
    if (!this.view.pane.slide) return;
    this.view.pane.viewer.viewport.zoomBy(factor);
    this.view.pane.viewer.viewport.applyConstraints();
  }

  turn(degrees) {
    this.view.pane.go({ turn: this.view.pane.viewer.viewport.getRotation(false) + degrees });
  }

  flip() {
    const { pane } = this.view;
    pane.go({ flip: !pane.viewer.viewport.getFlip() });
    this.showSlide();
  }

  look(name) {
    this.view.heat.set({ [name]: !this.view.heat.look[name] });
  }

  curtain() {
    this.view.heat.set({ curtain: this.view.heat.look.curtain === null ? 0.5 : null, hidden: false });
  }

  opacity(step) {
    this.view.heat.set({ opacity: Math.max(0, Math.min(1, this.view.heat.look.opacity + step)), hidden: false });
  }

  outline(id) {
    this.view.outlines.toggle(id);
  }

  async pair() {
    this.setPair(this.views.length === 1);
    if (this.views.length === 1) return;
    const [first, second] = this.views, state = first.state();
    this.use(second);
    await second.show(this.list.find(first.id), { ...state, look: { ...state.look, hidden: !state.look.hidden } });
    say("Two slides side by side; choose another for this one from the list");
  }

  setPair(on) {
    if (on) {
      this.addView("second");
      this.linked = new Link(...this.views);
    } else {
      const [first, second] = this.views;
      this.linked.turn(false);
      this.linked = null;
      this.use(first);
      this.views = [first];
      first.pane.root.classList.remove("is-used");
      second.remove();
    }
    document.body.classList.toggle("is-pair", on);
    $("pair").setAttribute("aria-pressed", String(on));
    $("link").hidden = !on;
    this.write();
  }

  link() {
    if (this.linked) this.turnLink(!this.linked.on);
  }

  turnLink(on) {
    this.linked.turn(on);
    $("link").setAttribute("aria-pressed", String(on));
    say(on ? "Both slides move together" : "Each slide moves alone");
    this.write();
  }

  other() {
    const next = this.views.find((each) => each !== this.view);
    next?.pane.viewer.canvas.focus({ preventScroll: true });
  }

  search() {
    this.fold("left", true, false);
    $("search").focus();
  }

  escape() {
    hush();
    if (this.tools.points.length) this.tools.cancel();
    else if (this.view.ruler) {
      this.view.ruler = null;
      this.view.pane.redraw();
    } else if (this.tools.tool !== "move") this.tools.choose("move");
    else this.inspector.clear(this.view);
  }

  help() {
    $("help").showModal();
  }
}
