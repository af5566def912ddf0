// The list of what was drawn on the slide that is worked on.
import { css } from "./colours.js";
import { $, make } from "./dom.js";
import { area } from "./format.js";
import { areaOf, boundsOf } from "./shapes.js";

const STATES = { loading: "Loading…", saved: "All saved", saving: "Saving…", unsaved: "Not saved" };

export class DrawingsPanel {
  constructor(session, tools) {
    this.tools = tools;
    this.update = () => this.render();
    this.pick = () => this.watch(this.view.drawings);
    this.canDraw = session.can_draw;
    $("group").value = tools.group;
    $("group").addEventListener("change", () => { tools.group = $("group").value.trim() || "Tumor"; $("group").value = tools.group; });
    $("groups").replaceChildren(...session.classes.map((value) => make("option", { value })));
    $("undo").addEventListener("click", () => this.drawings?.undo());
    $("redo").addEventListener("click", () => this.drawings?.redo());
    $("drawing-refusal").textContent = session.can_draw ? "" : `Nothing can be drawn: ${session.draw_refusal}.`;
    $("drawing-controls").hidden = !session.can_draw;
  }

  attach(view) {
    this.view?.removeEventListener("drawings", this.pick);
    this.view = view;
    view.addEventListener("drawings", this.pick);
    this.watch(view.drawings);
  }

  watch(drawings) {
    this.drawings?.removeEventListener("change", this.update);
    this.drawings = drawings;
    drawings?.addEventListener("change", this.update);
    this.render();
  }

  render() {
    const { drawings } = this;
    $("saved").textContent = drawings ? STATES[drawings.state] : "";
    $("saved").dataset.state = drawings?.state ?? "";
    $("undo").disabled = !drawings?.past.length;
    $("redo").disabled = !drawings?.future.length;
    $("shapes").replaceChildren(...(drawings?.features ?? []).map((each) => this.line(each)));
    $("no-shapes").hidden = !!drawings?.features.length || !this.canDraw;
  }

  line(shape) {
    const group = shape.properties?.classification?.name ?? "no class", { mpp } = this.view.pane.slide;
    const colour = make("span", { class: "swatch", "aria-hidden": "true" });
    colour.style.setProperty("--colour", css(shape.properties?.classification?.color ?? [90, 90, 90]));
    const isSelected = shape.id === this.drawings.selected, size = area(areaOf(shape.geometry), mpp);
    return make("li", { class: isSelected ? "is-selected" : "", data: { shape: shape.id } },
      make("button", { type: "button", class: "shape", "aria-pressed": String(isSelected), "aria-label": `Show ${group}, ${size}`, on: { click: () => this.fly(shape) } },
        colour, make("span", { text: shape.properties?.name ? `${group}: ${shape.properties.name}` : group }), make("small", { text: size })),
      this.canDraw && isSelected && make("input", {
        class: "regroup", value: group, list: "groups", "aria-label": "Class of the shape",
        on: { change: (event) => event.target.value.trim() && this.drawings.rename(shape.id, { group: event.target.value.trim() }) },
      }),
      this.canDraw && make("button", { type: "button", class: "quiet", "aria-label": `Delete ${group}`, title: "Delete", text: "✕", on: { click: () => this.drawings.remove(shape.id) } }));
  }

  fly(shape) {
    const box = boundsOf(shape.geometry), side = Math.max(box.width, box.height, 1);
    this.drawings.selected = shape.id;
    this.drawings.turn(this.drawings.state);
    this.view.flyTo({ x_l0: box.x + (box.width - side) / 2, y_l0: box.y + (box.height - side) / 2, size_l0: side }, { fill: 0.6 });
    document.querySelector(`[data-shape="${CSS.escape(shape.id)}"] .shape`)?.focus();
  }
}
