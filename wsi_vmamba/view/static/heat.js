// The heatmap over one slide: which layer, how it looks, and where the curtain hangs.
import { loadRaster, paint } from "./raster.js";
import { fail } from "./status.js";

export const LOOK = { layer: undefined, opacity: 0.5, map: "meadow", threshold: null, smooth: false, curtain: null, hidden: false };

export class Heat extends EventTarget {
  constructor(pane) {
    super();
    this.pane = pane;
    this.look = { ...LOOK };
    this.raster = null;
    this.painted = null;
    this.listed = { layers: [], columns: null };
    this.asked = 0;
    pane.drawers.push((context, frame) => this.draw(context, frame));
  }

  layers(kind) {
    return this.listed.layers.filter((each) => (kind ? each.kind === kind : each.kind !== "vector"));
  }

  // What is offered for a new slide; the layer that was chosen stays chosen where the slide has it.
  offer(listed) {
    this.listed = listed;
    return this.load();
  }

  urlOf(id) {
    const column = /^feature:(\d+)$/.exec(id || "");
    if (column && this.listed.columns) {
      return Number(column[1]) < this.listed.columns.count ? this.listed.columns.url.replace("{column}", column[1]) : null;
    }
    return this.layers().find((each) => each.id === id)?.url ?? null;
  }

  // Where nobody has chosen: what a model says, if one said something; else the slide alone.
  first() {
    return ["probability", "attention", "classes"].find((id) => this.layers().some((each) => each.id === id)) ?? null;
  }

  async load() {
    if (this.look.layer === undefined) this.look.layer = this.first();
    const mine = ++this.asked, url = this.urlOf(this.look.layer);
    this.isLoading = !!url;
    this.dispatchEvent(new Event("loading"));
    if (url) {
      // The layer before stays until this one is there, so that nothing flickers.
      try {
        const raster = await loadRaster(url);
        if (mine !== this.asked) return;
        this.raster = raster;
      } catch (error) {
        if (mine !== this.asked) return;
        this.raster = null;
        fail(error);
      }
    } else this.raster = null;
    this.isLoading = false;
    this.repaint();
  }

  // Any raster of the slide; says where its patches are.
  async grid() {
    if (this.raster) return this.raster;
    const any = this.layers()[0]?.url ?? this.urlOf("feature:0");
    this.anyOf ??= new Map();
    if (any && !this.anyOf.has(any)) this.anyOf.set(any, loadRaster(any));
    return any ? this.anyOf.get(any) : null;
  }

  set(change) {
    const layer = this.look.layer;
    Object.assign(this.look, change);
    if (this.look.layer !== layer) {
      if (!("threshold" in change)) this.look.threshold = null;
      this.load();
    } else this.repaint("map" in change || "threshold" in change);
  }

  toggle(name) {
    this.set({ [name]: !this.look[name] });
  }

  toggleCurtain() {
    this.set({ curtain: this.look.curtain === null ? 0.5 : null, hidden: false });
  }

  fade(step) {
    this.set({ opacity: Math.max(0, Math.min(1, this.look.opacity + step)), hidden: false });
  }

  repaint(anew = true) {
    if (anew) {
      this.painted = this.raster && paint(this.raster, {
        map: this.look.map, threshold: this.look.threshold, ...(this.raster.about.range || { low: 0, high: 1 }),
      });
    }
    this.pane.redraw();
    this.dispatchEvent(new Event("change"));
  }

  // Left of the curtain the layer is seen, right of it the slide alone.
  draw(context, frame) {
    if (!this.painted || this.look.hidden) return;
    if (this.look.curtain !== null) {
      frame.onScreen();
      context.beginPath();
      context.rect(0, 0, this.look.curtain * frame.width, frame.height);
      context.clip();
    }
    frame.onSlide();
    const box = this.raster.about.rectangle_l0;
    context.globalAlpha = this.look.opacity;
    context.imageSmoothingEnabled = this.look.smooth;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.painted, box.x, box.y, box.width, box.height);
  }
}
