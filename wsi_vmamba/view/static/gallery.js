// The patches that count most, or least; a press flies there.
import { getJson } from "./api.js";
import { $, make, options } from "./dom.js";
import { short } from "./format.js";
import { fail } from "./status.js";

export class Gallery extends EventTarget {
  constructor() {
    super();
    this.view = null;
    this.shown = null;
    this.update = () => this.render();
    $("gallery").closest("details").addEventListener("toggle", this.update);
    $("gallery-by").addEventListener("change", () => this.load());
    $("gallery-end").addEventListener("change", () => this.load());
  }

  attach(view) {
    for (const kind of ["layers", "slide"]) this.view?.removeEventListener(kind, this.update);
    this.view?.heat.removeEventListener("change", this.update);
    this.view = view;
    for (const kind of ["layers", "slide"]) view.addEventListener(kind, this.update);
    view.heat.addEventListener("change", this.update);
    this.render();
  }

  // What the map shows is what is sorted by, unless something else was chosen.
  render() {
    const { heat } = this.view, scalar = heat.layers("scalar").map((each) => [each.id, each.title]);
    if (heat.look.layer?.startsWith("feature:")) scalar.push([heat.look.layer, `Feature ${heat.look.layer.slice(8)}`]);
    const key = `${this.view.id} ${scalar.map(([id]) => id)} ${heat.look.layer}`;
    const details = $("gallery").closest("details");
    details.hidden = !scalar.length;
    // Until the layers of a new slide are known, those of the last one stand there and nothing jumps.
    if (key === this.key || !details.open || this.view.isLoading) return;
    this.key = key;
    const wanted = scalar.some(([id]) => id === heat.look.layer) ? heat.look.layer : scalar[0]?.[0];
    options($("gallery-by"), scalar, wanted ?? "");
    this.load();
  }

  async load() {
    const { view } = this, by = $("gallery-by").value, end = $("gallery-end").value, key = `${view.id} ${by} ${end}`;
    if (key === this.shown) return;
    this.shown = key;
    $("gallery").replaceChildren();
    if (!by) return;
    try {
      const found = await getJson(`/slides/${view.id}/patches?by=${encodeURIComponent(by)}&top=60${end === "lowest" ? "&lowest=true" : ""}`);
      if (key === this.shown) $("gallery").replaceChildren(...found.patches.map((each) => this.item(view, each)));
    } catch (error) {
      if (key === this.shown) this.shown = null;
      fail(error);
    }
  }

  item(view, patch) {
    const picture = make("img", { alt: "", loading: "lazy", decoding: "async", src: sized(patch.picture, 128) });
    return make("li", {}, make("button", {
      type: "button", class: "tile", "aria-label": `Patch ${patch.index}, ${short(patch.value)}`, data: { index: patch.index },
      on: { click: () => this.dispatchEvent(new CustomEvent("choose", { detail: { view, patch } })) },
    }, picture, make("span", { text: short(patch.value) })));
  }
}

// The same rectangle of the slide with another number of pixels a side.
export function sized(url, max_px) {
  const [path, query] = url.split("?"), parts = new URLSearchParams(query);
  parts.set("max_px", max_px);
  return `${path}?${parts}`;
}
