// The pointer as a pencil: rectangle, polygon, freehand, ruler. One tool for all panes; "move" leaves the slide to OpenSeadragon.
import { make } from "./dom.js";
import { length } from "./format.js";
import { distance, polygon, rectangle, simplify } from "./shapes.js";
import { say } from "./status.js";

export const TOOLS = {
  move: "Move and look", rectangle: "Draw a rectangle", polygon: "Draw a polygon", freehand: "Draw freehand", measure: "Measure a distance",
};
const HINTS = {
  rectangle: "Drag from corner to corner", polygon: "Click each corner; double-click or Enter ends, Esc leaves it",
  freehand: "Drag around the area", measure: "Drag from point to point",
};

export class Tools extends EventTarget {
  constructor() {
    super();
    this.tool = "move";
    this.group = "Tumor";
    this.points = [];
    this.view = null;
    this.isDown = false;
  }

  choose(tool) {
    this.cancel();
    this.tool = tool;
    document.body.dataset.tool = tool;
    if (HINTS[tool]) say(HINTS[tool]);
    this.hint = HINTS[tool] || "";
    this.dispatchEvent(new Event("change"));
  }

  // Lays a sheet over a pane that takes the pointer while a tool is chosen.
  attach(view) {
    const sheet = make("div", { class: "sheet", "aria-hidden": "true" });
    view.pane.root.insertBefore(sheet, view.pane.notice);
    const handle = (kind, action) => sheet.addEventListener(kind, (event) => {
      const at = view.pane.toSlide(event.clientX, event.clientY);
      if (at && view.pane.slide) action.call(this, view, at, event);
    });
    handle("pointerdown", this.down);
    handle("pointermove", this.move);
    handle("pointerup", this.up);
    handle("pointercancel", this.cancel);
    handle("dblclick", this.finish);
    handle("wheel", this.wheel);
    view.pane.drawers.push((context, frame) => this.draw(view, context, frame));
  }

  down(view, at, event) {
    if (event.button !== 0) return;
    event.preventDefault();
    view.pane.viewer.canvas.focus({ preventScroll: true });
    if (this.view !== view) this.points = [];
    this.view = view;
    this.isDown = true;
    if (this.tool === "polygon") this.corner(view, at);
    else {
      event.target.setPointerCapture(event.pointerId);
      this.points = [at, at];
      view.ruler = null;
    }
    view.pane.redraw();
  }

  corner(view, at) {
    const near = 8 / view.pane.scale(), [first] = this.points;
    if (this.points.length > 2 && distance(first, at) < near) return this.finish(view);
    // The second click of a double click is no corner of its own.
    if (!this.points.length || distance(this.points.at(-1), at) > near / 4) this.points.push(at);
    return null;
  }

  move(view, at, event) {
    this.hover = at;
    if (this.view !== view || (!this.isDown && this.tool !== "polygon")) return;
    if (this.tool === "freehand" && this.isDown) {
      const between = event.getCoalescedEvents?.() ?? [];
      for (const each of between.length ? between : [event]) this.points.push(view.pane.toSlide(each.clientX, each.clientY));
    } else if (this.tool !== "polygon") this.points[1] = at;
    view.pane.redraw();
  }

  up(view, at) {
    if (!this.isDown || this.view !== view) return;
    this.isDown = false;
    const far = distance(this.points[0], at) * view.pane.scale() > 3;
    if (this.tool === "rectangle" && far) this.keep(view, rectangle(this.points[0], at));
    if (this.tool === "measure" && far) {
      view.ruler = [this.points[0], at];
      say(`Distance ${length(distance(...view.ruler), view.pane.slide.mpp)}`);
    }
    if (this.tool === "freehand") {
      const points = simplify([...this.points, at], 0.5 / view.pane.scale());
      if (points.length > 3) this.keep(view, polygon(points));
    }
    if (this.tool !== "polygon") this.points = [];
    view.pane.redraw();
  }

  finish(view = this.view) {
    if (this.tool !== "polygon" || !view || this.points.length < 3) return;
    const points = this.points;
    this.points = [];
    this.keep(view, polygon(points));
  }

  keep(view, geometry) {
    view.drawings?.add(geometry, this.group);
  }

  cancel() {
    this.points = [];
    this.isDown = false;
    this.view?.pane.redraw();
  }

  wheel(view, _, event) {
    event.preventDefault();
    view.zoomAt(event.clientX, event.clientY, event.deltaY < 0 ? 1.35 : 1 / 1.35);
  }

  draw(view, context, frame) {
    if (view.ruler) ruler(context, view, frame, ...view.ruler);
    if (this.view !== view || !this.points.length) return;
    if (this.tool === "measure") {
      ruler(context, view, frame, ...this.points);
      return;
    }
    let points = this.points;
    if (this.tool === "rectangle") points = rectangle(...points).coordinates[0].map(([x, y]) => ({ x, y }));
    if (this.tool === "polygon" && this.hover) points = [...points, this.hover];
    frame.onScreen();
    line(context, points.map(({ x, y }) => view.pane.toScreen(x, y, frame)), this.tool === "polygon");
  }
}

function line(context, points, dots) {
  for (const [width, colour] of [[4, "rgba(255,255,255,.85)"], [1.75, "#14181c"]]) {
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.beginPath();
    points.forEach(({ x, y }, index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.stroke();
  }
  for (const { x, y } of dots ? points : []) {
    context.fillStyle = "#fff";
    context.beginPath();
    context.arc(x, y, 3.5, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  }
}

function ruler(context, view, frame, from, to) {
  frame.onScreen();
  const a = view.pane.toScreen(from.x, from.y, frame), b = view.pane.toScreen(to.x, to.y, frame);
  line(context, [a, b], true);
  const text = length(distance(from, to), view.pane.slide.mpp);
  context.font = "600 13px system-ui, sans-serif";
  const width = context.measureText(text).width + 14, x = (a.x + b.x) / 2 - width / 2, y = (a.y + b.y) / 2 - 32;
  context.fillStyle = "rgba(20, 24, 28, .88)";
  context.beginPath();
  context.roundRect(x, y, width, 23, 5);
  context.fill();
  context.fillStyle = "#fff";
  context.fillText(text, x + 7, y + 16);
}
