// The controls of layers and outlines of the slide that is worked on.
import { MAPS, OUTLINE_COLOURS, paintLegend } from "./colours.js";
import { $, make, options } from "./dom.js";
import { short } from "./format.js";

const LOOKING = "Looking for layers…";

export class LayersPanel {
  constructor() {
    this.view = null;
    this.update = () => this.render();
    options($("map"), MAPS.map(({ id, title }) => [id, title]), "meadow");
    const set = (change) => this.view?.heat.set(change);
    $("layer").addEventListener("change", () => this.chooseLayer($("layer").value));
    $("column").addEventListener("change", () => set({ layer: `feature:${this.column()}`, hidden: false }));
    $("opacity").addEventListener("input", () => set({ opacity: $("opacity").valueAsNumber / 100, hidden: false }));
    $("map").addEventListener("change", () => set({ map: $("map").value }));
    $("threshold").addEventListener("input", () => set({ threshold: this.thresholdAt($("threshold").valueAsNumber) }));
    $("smooth").addEventListener("change", () => set({ smooth: $("smooth").checked }));
    $("curtained").addEventListener("change", () => set({ curtain: $("curtained").checked ? 0.5 : null, hidden: false }));
    $("shown").addEventListener("change", () => set({ hidden: !$("shown").checked }));
  }

  attach(view) {
    for (const part of this.view ? [this.view, this.view.heat, this.view.outlines] : []) {
      for (const kind of ["change", "layers"]) part.removeEventListener(kind, this.update);
    }
    this.view = view;
    for (const part of [view, view.heat, view.outlines]) for (const kind of ["change", "layers"]) part.addEventListener(kind, this.update);
    this.key = null;
    this.render();
  }

  chooseLayer(value) {
    const layer = value === "column" ? `feature:${this.column()}` : value === "none" ? null : value;
    this.view?.heat.set({ layer, hidden: false });
  }

  column() {
    const most = (this.view?.heat.listed.columns?.count ?? 1) - 1;
    return Math.max(0, Math.min(most, Math.round($("column").valueAsNumber) || 0));
  }

  // The slider goes from "all" through the range of the colours.
  thresholdAt(step) {
    const range = this.view.heat.raster?.about.range;
    return !range || step <= 0 ? null : range.low + (step / 200) * (range.high - range.low);
  }

  render() {
    const { heat, outlines } = this.view;
    // Until the layers of a new slide are known, the last ones stand there, dimmed, so that nothing jumps.
    $("side-panel").classList.toggle("is-waiting", !!this.view.isLoading);
    if (this.view.isLoading && this.key) {
      $("no-layers").textContent = LOOKING;
      return;
    }
    this.renderChoices(heat);
    const { look, raster } = heat, about = raster?.about, isScalar = about?.kind === "scalar";
    const isColumn = look.layer?.startsWith("feature:");
    $("layer").value = isColumn ? "column" : look.layer ?? "none";
    if (!$("layer").value) $("layer").value = "none"; // a layer that this slide does not have
    $("column-line").hidden = !isColumn;
    if (isColumn && document.activeElement !== $("column")) $("column").value = look.layer.slice(8);
    $("opacity").value = Math.round(look.opacity * 100);
    $("opacity-value").textContent = `${Math.round(look.opacity * 100)} %`;
    $("map").value = look.map;
    $("smooth").checked = look.smooth;
    $("curtained").checked = look.curtain !== null;
    $("shown").checked = !look.hidden;
    $("look").hidden = !raster;
    for (const id of ["map-line", "threshold-line"]) $(id).hidden = !isScalar;
    $("no-layers").hidden = heat.layers().length > 0 || !!heat.listed.columns;
    const isKnown = this.view.id && !this.view.isLoading;
    $("no-layers").textContent = isKnown ? "There are no layers of this slide." : LOOKING;
    if (isScalar) this.renderScale(look, about);
    $("legend").hidden = !isScalar;
    this.renderClasses(about);
    this.renderOutlines(outlines);
  }

  renderChoices(heat) {
    const key = JSON.stringify(heat.listed);
    if (key === this.key) return;
    this.key = key;
    const pairs = [["none", "None"], ...heat.layers().map((each) => [each.id, each.title])];
    if (heat.listed.columns) pairs.push(["column", "A single feature…"]);
    options($("layer"), pairs, "none");
    $("layer-line").hidden = pairs.length === 1;
    if (heat.listed.columns) $("column").max = heat.listed.columns.count - 1;
  }

  renderScale(look, { range, quantity, threshold, unit }) {
    paintLegend($("legend-bar"), look.map);
    const span = range.high - range.low, part = look.threshold === null ? 0 : (look.threshold - range.low) / span;
    $("legend-low").textContent = short(range.low);
    $("legend-middle").textContent = short(range.low + span / 2);
    $("legend-high").textContent = short(range.high);
    $("legend-title").textContent = unit ? `${quantity} (${unit})` : quantity;
    $("legend-cut").style.width = `${Math.max(0, Math.min(100, part * 100))}%`;
    $("threshold").value = Math.round(part * 200);
    $("threshold-value").textContent = look.threshold === null ? "all" : `≥ ${short(look.threshold)}`;
    const mark = threshold === null || threshold === undefined ? null : (threshold - range.low) / span;
    $("legend-mark").hidden = mark === null || mark < 0 || mark > 1;
    $("legend-mark").style.left = `${100 * (mark ?? 0)}%`;
    $("legend-mark").title = mark === null ? "" : `decision threshold ${short(threshold)}`;
  }

  renderClasses(about) {
    const shown = about?.kind === "classes" ? about.classes : [];
    $("classes").replaceChildren(...shown.map(({ name, colour }) => make("li", {}, swatch(colour), name)));
    const parts = about?.kind === "rgb" ? about.explained : null, notes = about?.notes ?? [];
    $("explained").hidden = !parts && !notes.length;
    $("explained").textContent = notes.join("; ");
    if (parts) $("explained").textContent = `Red, green and blue are the first three components: ${parts.map((each) => `${Math.round(100 * each)} %`).join(", ")} of the variance.`;
  }

  renderOutlines(outlines) {
    $("outlines").hidden = !outlines.layers.length;
    $("outline-choices").replaceChildren(...outlines.layers.map(({ id, title }) => make("label", { class: "check" },
      make("input", { type: "checkbox", checked: outlines.shown.has(id), data: { outline: id }, on: { change: (event) => this.toggle(id, event.target.checked) } }),
      swatch(OUTLINE_COLOURS[id] || "#cc79a7", "line"), title)));
  }

  async toggle(id, on) {
    await this.view.outlines.toggle(id, on);
    document.querySelector(`[data-outline="${CSS.escape(id)}"]`)?.focus();
  }
}

function swatch(colour, kind = "") {
  const element = make("span", { class: `swatch ${kind}`, "aria-hidden": "true" });
  element.style.setProperty("--colour", colour);
  return element;
}
