// A pane with all that lies over its slide: heatmap, outlines, drawings, the patch that is looked at.
import { getJson } from "./api.js";
import { css } from "./colours.js";
import { drawingsOf } from "./drawings.js";
import { Heat } from "./heat.js";
import { Outlines, pathOf, stroke } from "./outlines.js";
import { Pane } from "./pane.js";
import { fail } from "./status.js";

export class SlideView extends EventTarget {
  constructor(name) {
    super();
    this.name = name;
    this.id = null;
    this.pane = new Pane(name);
    this.heat = new Heat(this.pane);
    this.outlines = new Outlines(this.pane);
    this.drawings = null;
    this.patch = null;
    this.ruler = null;
    this.round = 0;
    this.pane.drawers.push((context, frame) => this.draw(context, frame));
    this.redraw = () => this.pane.redraw();
  }

  // Shows a slide of the list, with a place and a look where they are given.
  async show(entry, { place = null, look = null, outlines = null } = {}) {
    const mine = ++this.round;
    this.id = entry.id;
    this.patch = this.ruler = null;
    this.watch(null);
    if (look) Object.assign(this.heat.look, look);
    if (outlines) this.outlines.shown = new Set(outlines);
    this.heat.asked++;
    this.heat.isLoading = false;
    this.heat.raster = this.heat.painted = null;
    this.heat.anyOf = null;
    this.outlines.offer([]);
    this.isLoading = !entry.error;
    if (entry.error) this.heat.listed = { layers: [], columns: null };
    this.dispatchEvent(new Event("slide"));
    if (entry.error) {
      this.pane.refuse(entry.id, entry.error);
      this.dispatchEvent(new Event("layers"));
      return;
    }
    if (!(await this.pane.show(entry.id, place))) {
      if (mine === this.round) this.isLoading = false;
      this.dispatchEvent(new Event("layers"));
      return;
    }
    this.watch(drawingsOf(this.pane.slide));
    await this.layers(entry.id, mine);
  }

  watch(drawings) {
    this.drawings?.removeEventListener("change", this.redraw);
    this.drawings = drawings;
    drawings?.addEventListener("change", this.redraw);
    this.dispatchEvent(new Event("drawings"));
  }

  isBusy() {
    return this.pane.isLoading() || this.isLoading || this.heat.isLoading || this.outlines.isLoading;
  }

  async layers(id, mine) {
    let listed = { layers: [], columns: null };
    this.dispatchEvent(new Event("layers"));
    try {
      listed = await getJson(`/slides/${id}/layers`);
    } catch (error) {
      if (mine === this.round) fail(error);
    }
    if (mine !== this.round) return;
    this.isLoading = false;
    this.outlines.offer(listed.layers.filter((each) => each.kind === "vector"));
    await this.heat.offer(listed);
    this.dispatchEvent(new Event("layers"));
  }

  // The middle of a square of level 0 in the middle of the screen, large enough to be looked at.
  flyTo({ x_l0, y_l0, size_l0 }, { fill = 0.35 } = {}) {
    const box = this.pane.root.getBoundingClientRect();
    this.pane.go({ x: x_l0 + size_l0 / 2, y: y_l0 + size_l0 / 2, k: Math.min(4, (fill * Math.min(box.width, box.height)) / size_l0) });
  }

  zoomAt(clientX, clientY, factor) {
    const { viewport } = this.pane.viewer, at = this.pane.toSlide(clientX, clientY), width = this.pane.slide.size.width;
    viewport.zoomBy(factor, new window.OpenSeadragon.Point(at.x / width, at.y / width));
    viewport.applyConstraints();
  }

  // By a part of what is seen.
  pan(x, y) {
    if (!this.pane.slide) return;
    const { viewport } = this.pane.viewer, size = viewport.getContainerSize(), flip = viewport.getFlip() ? -1 : 1;
    viewport.panBy(viewport.deltaPointsFromPixels(new window.OpenSeadragon.Point(x * size.x * 0.15 * flip, y * size.y * 0.15)));
    viewport.applyConstraints();
  }

  zoom(factor) {
    if (!this.pane.slide) return;
    this.pane.viewer.viewport.zoomBy(factor);
    this.pane.viewer.viewport.applyConstraints();
  }

  turn(degrees) {
    this.pane.go({ turn: this.pane.viewer.viewport.getRotation(false) + degrees });
  }

  flip() {
    this.pane.go({ flip: !this.pane.viewer.viewport.getFlip() });
  }

  select(patch) {
    this.patch = patch;
    this.pane.redraw();
  }

  draw(context, frame) {
    frame.onSlide();
    for (const each of this.drawings?.features || []) {
      const path = pathOf([each]), colour = each.properties?.classification?.color || [90, 90, 90];
      const isSelected = each.id === this.drawings.selected;
      context.fillStyle = css(colour, isSelected ? 0.25 : 0.1);
      if (each.geometry.type !== "LineString") context.fill(path, "evenodd");
      stroke(context, path, frame.k, css(colour), [], isSelected ? 3.5 : 2);
    }
    if (!this.patch) return;
    const square = new Path2D(), { x_l0, y_l0, size_l0 } = this.patch;
    square.rect(x_l0, y_l0, size_l0, size_l0);
    stroke(context, square, frame.k, "#14181c", [], 2.5);
  }

  // What the address has to say of this view.
  state() {
    return { slide: this.id, place: this.pane.slide && this.pane.place(), look: this.heat.look, outlines: this.outlines.shown };
  }

  remove() {
    this.watch(null);
    this.pane.remove();
  }
}
