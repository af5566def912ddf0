// Two slides that move together: what separates them when they are linked stays, in micrometres where both know them.
export class Link {
  constructor(first, second) {
    this.views = [first, second];
    this.on = true;
    this.leader = first;
    this.relation = null;
    for (const view of this.views) {
      view.pane.addEventListener("used", () => { this.leader = view; });
      view.pane.addEventListener("view", () => this.follow(view));
      view.pane.addEventListener("opened", () => this.join(view));
    }
  }

  turn(on) {
    this.on = on;
    if (on) this.measure();
  }

  // A slide that is opened beside another is shown as large as that one.
  join(view) {
    const other = this.views.find((each) => each !== view);
    if (this.on && other.pane.slide) {
      const [u, uo] = view === this.views[0] ? this.units() : [...this.units()].reverse();
      view.pane.go({ k: (other.pane.place().k / uo) * u }, true);
    }
    this.measure();
  }

  units() {
    const mpps = this.views.map((view) => view.pane.slide?.mpp);
    return mpps.every(Boolean) ? mpps : [1, 1];
  }

  measure() {
    this.relation = null;
    if (!this.views.every((view) => view.pane.slide)) return;
    const [a, b] = this.views.map((view) => view.pane.place()), [ua, ub] = this.units();
    this.relation = { x: b.x * ub - a.x * ua, y: b.y * ub - a.y * ua, k: b.k / ub / (a.k / ua), turn: b.turn - a.turn };
  }

  follow(view) {
    if (!this.on || !this.relation || view !== this.leader || this.isMoving) return;
    const other = this.views.find((each) => each !== view);
    if (!other.pane.slide) return;
    const sign = view === this.views[0] ? 1 : -1, [u, uo] = sign > 0 ? this.units() : [...this.units()].reverse();
    const { viewport } = view.pane.viewer, width = view.pane.slide.size.width, centre = viewport.getCenter(true);
    const r = this.relation, k = view.pane.scale(true);
    this.isMoving = true;
    other.pane.go({
      x: (centre.x * width * u + sign * r.x) / uo, y: (centre.y * width * u + sign * r.y) / uo,
      k: (k / u) * r.k ** sign * uo, turn: viewport.getRotation(true) + sign * r.turn,
    }, true);
    this.isMoving = false;
  }
}
