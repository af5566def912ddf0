// One patch: its pixels at full resolution, what is said of it, and the patches most like it over all slides.
import { getJson } from "./api.js";
import { $, make } from "./dom.js";
import { count, microns, short } from "./format.js";
import { sized } from "./gallery.js";
import { indexAt } from "./raster.js";
import { fail, say } from "./status.js";

export class Inspector extends EventTarget {
  constructor() {
    super();
    this.round = 0;
  }

  // The patch under a point; none is asked for where the layers say that there is none.
  async at(view, { x, y }) {
    const grid = await view.heat.grid().catch(() => null);
    if (!grid || indexAt(grid, x, y) < 0) return this.clear(view);
    return this.load(view, `/slides/${view.id}/patches/at?x_l0=${x}&y_l0=${y}`);
  }

  open(view, index) {
    return this.load(view, `/slides/${view.id}/patches/${index}`);
  }

  clear(view) {
    this.round++;
    view.select(null);
    $("patch").hidden = true;
    $("no-patch").hidden = false;
  }

  async load(view, url) {
    const round = ++this.round;
    try {
      const patch = await getJson(url);
      if (round !== this.round) return;
      view.select(patch);
      this.render(view, patch);
      this.dispatchEvent(new Event("opened"));
      say(`Patch ${patch.index}: ${patch.values.map(({ title, value }) => `${title} ${short(value)}`).join(", ")}`);
      if (patch.neighbours) await this.neighbours(patch.neighbours, round);
    } catch (error) {
      if (round === this.round) fail(error);
    }
  }

  render(view, patch) {
    $("no-patch").hidden = true;
    $("patch").hidden = false;
    $("patch-picture").src = sized(patch.picture, 1024);
    $("patch-picture").alt = `Patch ${patch.index} of ${view.pane.slide.name}`;
    const rows = patch.values.map(({ title, value, rank }) => [title, `${short(value)} · rank ${count(rank)}`]);
    const side = patch.size_um ? `${microns(patch.size_um)} (${count(patch.size_l0)} px)` : `${count(patch.size_l0)} px`;
    rows.push(["Side", side], ["Corner", `${count(patch.x_l0)}, ${count(patch.y_l0)} px`], ["Number", `${count(patch.index)} (column ${patch.column}, row ${patch.row})`]);
    $("patch-values").replaceChildren(...rows.flatMap(([term, text]) => [make("dt", { text: term }), make("dd", { text })]));
    $("neighbours").replaceChildren();
    $("neighbours-about").textContent = patch.neighbours ? "Looking for patches that look alike…" : "";
  }

  async neighbours(url, round) {
    for (;;) {
      const found = await getJson(`${url}${url.includes("?") ? "&" : "?"}count=12`);
      if (round !== this.round) return;
      if (found.status === "ready") {
        this.renderNeighbours(found);
        return;
      }
      $("neighbours-about").textContent = `Comparing the patches of all slides: ${found.done} of ${found.of}`;
      await new Promise((resolve) => setTimeout(resolve, 1000));
      if (round !== this.round) return;
    }
  }

  renderNeighbours({ patches, about, left_out: leftOut }) {
    $("neighbours-about").textContent = `Most alike: ${about}${leftOut?.length ? `; left out: ${leftOut.join(", ")}` : ""}`;
    $("neighbours").replaceChildren(...patches.map((each) => make("li", {}, make("button", {
      type: "button", class: "tile", title: each.slide_name, "aria-label": `Patch ${each.index} of ${each.slide_name}, distance ${short(each.distance)}`,
      on: { click: () => this.dispatchEvent(new CustomEvent("elsewhere", { detail: each })) },
    }, make("img", { alt: "", loading: "lazy", src: sized(each.picture, 128) }), make("span", { text: each.slide_name })))));
  }
}
