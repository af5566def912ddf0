// Areas over one slide: truth, predicted, tissue, region plan.
import { getJson } from "./api.js";
import { css, hexBytes, OUTLINE_COLOURS } from "./colours.js";
import { fail } from "./status.js";

const DASHES = { predicted: [7, 4], regions: [2, 3] };

export class Outlines extends EventTarget {
  constructor(pane) {
    super();
    this.pane = pane;
    this.shown = new Set(["truth"]);
    this.layers = [];
    this.paths = new Map();
    this.round = 0;
    this.loading = 0;
    pane.drawers.push((context, frame) => this.draw(context, frame));
  }

  offer(layers) {
    this.round++;
    this.layers = layers;
    this.paths.clear();
    return this.load();
  }

  get isLoading() {
    return this.loading > 0;
  }

  async load() {
    const round = this.round;
    this.loading++;
    this.dispatchEvent(new Event("loading"));
    await Promise.all(this.layers.filter(({ id }) => this.shown.has(id) && !this.paths.has(id)).map(async ({ id, url }) => {
      try {
        const found = await getJson(url);
        if (round === this.round) this.paths.set(id, pathOf(found.features));
      } catch (error) {
        if (round === this.round) fail(error);
      }
    }));
    this.loading--;
    if (round !== this.round) return;
    this.pane.redraw();
    this.dispatchEvent(new Event("change"));
  }

  toggle(id, on = !this.shown.has(id)) {
    if (on) this.shown.add(id);
    else this.shown.delete(id);
    return this.load();
  }

  static colour(id) {
    return hexBytes(OUTLINE_COLOURS[id] || "#cc79a7");
  }

  draw(context, frame) {
    for (const { id } of this.layers) {
      const path = this.shown.has(id) && this.paths.get(id);
      if (!path) continue;
      frame.onSlide();
      stroke(context, path, frame.k, css(Outlines.colour(id)), DASHES[id]);
    }
  }
}

// A line that is seen on tissue and on white: white beneath, the colour above; as wide on the screen at every zoom.
export function stroke(context, path, k, colour, dash = [], width = 2) {
  context.lineJoin = "round";
  context.setLineDash([]);
  context.lineWidth = (width + 2) / k;
  context.strokeStyle = "rgba(255, 255, 255, 0.75)";
  context.stroke(path);
  context.setLineDash(dash.map((each) => each / k));
  context.lineWidth = width / k;
  context.strokeStyle = colour;
  context.stroke(path);
}

export function pathOf(features) {
  const path = new Path2D();
  for (const { geometry } of features) {
    const { type, coordinates } = geometry;
    const rings = type === "Polygon" ? coordinates : type === "MultiPolygon" ? coordinates.flat() : type === "LineString" ? [coordinates] : [];
    for (const ring of rings) {
      ring.forEach(([x, y], index) => (index ? path.lineTo(x, y) : path.moveTo(x, y)));
      if (type !== "LineString") path.closePath();
    }
  }
  return path;
}
