// The parts of the page and how they hang together: one or two views, of which one is worked on.
import { Address } from "./address.js";
import { hang } from "./curtain.js";
import { $ } from "./dom.js";
import { DrawingsPanel } from "./drawings_panel.js";
import { isNarrow, setUpFolds } from "./folds.js";
import { short } from "./format.js";
import { Gallery } from "./gallery.js";
import { Inspector } from "./inspector.js";
import { LayersPanel } from "./layers_panel.js";
import { Link } from "./linked.js";
import { SlideList } from "./list.js";
import { indexAt } from "./raster.js";
import { showAbout, showHeadline, showPoint, showScale } from "./readout.js";
import { SlideView } from "./slide_view.js";
import { hush, say } from "./status.js";
import { Stillness } from "./stillness.js";
import { TOOLS, Tools } from "./tools.js";

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
    this.views = [];
    this.address = new Address(this);
    this.stillness = new Stillness(() => !this.address.isFollowed() || this.views.some((each) => each.isBusy()));
    this.fold = setUpFolds(() => this.address.write());
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
    this.list.addEventListener("loaded", () => this.view.id === null && this.address.follow());
    await this.address.follow();
  }

  addView(name) {
    const view = new SlideView(name);
    this.views.push(view);
    hang(view);
    this.tools.attach(view);
    view.pane.addEventListener("used", () => this.use(view));
    view.pane.addEventListener("opened", () => this.showSlide());
    view.pane.addEventListener("refused", () => this.showSlide());
    view.pane.addEventListener("read", ({ detail }) => this.list.renew(detail.id));
    view.pane.addEventListener("press", ({ detail }) => detail && this.inspect(view, detail));
    view.pane.addEventListener("point", ({ detail }) => this.showPoint(view, detail));
    view.pane.addEventListener("view", ({ detail }) => {
      if (view === this.view) {
        showScale(view.pane, detail);
        this.showFlip();
      }
      this.seen();
    });
    view.pane.addEventListener("loaded", () => this.stillness.stir());
    for (const kind of ["layers", "slide"]) view.addEventListener(kind, () => this.stillness.stir());
    for (const kind of ["change", "loading"]) view.heat.addEventListener(kind, () => this.seen());
    for (const kind of ["change", "loading"]) view.outlines.addEventListener(kind, () => this.seen());
    this.use(view);
    return view;
  }

  // What is seen has changed, and the address with it.
  seen() {
    this.address.write();
    this.stillness.stir();
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
    if (!replace) this.address.writeNow();
    if (isNarrow()) this.fold("left", false, false);
    this.list.mark(slide.id);
    this.inspector.clear(this.view);
    const shown = this.view.show(slide);
    this.address.push({ replace });
    await shown;
  }

  showSlide() {
    const { id, pane } = this.view, slide = id && this.list.find(id);
    this.list.mark(id);
    if (!slide) return;
    showHeadline(slide);
    $("side-title").textContent = slide.name;
    this.showFlip();
    if (pane.slide) {
      showAbout(pane.slide);
      pane.viewer.canvas.setAttribute("aria-label", `Slide ${slide.name}; arrow keys move it, plus and minus zoom, question mark lists all keys`);
    }
  }

  showFlip() {
    const { pane } = this.view;
    $("flip").setAttribute("aria-pressed", String(!!pane.slide && pane.viewer.viewport.getFlip()));
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
    this.address.write();
  }

  link() {
    if (this.linked) this.turnLink(!this.linked.on);
  }

  turnLink(on) {
    this.linked.turn(on);
    $("link").setAttribute("aria-pressed", String(on));
    say(on ? "Both slides move together" : "Each slide moves alone");
    this.address.write();
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
