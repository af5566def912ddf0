// The address and the views: each follows the other.
import { throttle } from "./dom.js";
import * as url from "./url.js";

export class Address {
  constructor(app) {
    this.app = app;
    this.known = null; // as it was when it was last followed or written
    this.following = 0; // how many times it is being followed
    this.round = 0;
    this.write = throttle(() => this.writeNow(), 300);
  }

  // Whether the views are on their way to what it says.
  isFollowed() {
    return !this.following && location.hash === this.known;
  }

  // Shows what it says; else the first slide of the list. A newer address makes an older one void.
  async follow() {
    const { app } = this, mine = ++this.round;
    this.known = location.hash;
    this.following++;
    app.stillness.stir();
    try {
      const { panes, linked } = url.read(this.known);
      const found = panes.filter((each) => app.list.find(each.slide));
      if (!found.length) {
        const first = app.list.shown().find((each) => !each.error) ?? app.list.slides[0];
        if (first) await app.open(first, { replace: true });
        return;
      }
      if ((found.length > 1) !== (app.views.length > 1)) app.setPair(found.length > 1);
      await Promise.all(found.map((each, index) => this.show(app.views[index], each)));
      if (mine !== this.round) return;
      if (app.linked) app.turnLink(linked);
      app.use(app.views[0]);
    } finally {
      this.following--;
      app.stillness.stir();
      this.write();
    }
  }

  async show(view, { slide, place, look, outlines }) {
    if (view.id !== slide) {
      await view.show(this.app.list.find(slide), { place, look, outlines });
      return;
    }
    if (place) view.pane.go(place, true);
    view.heat.set(look);
    view.outlines.shown = new Set(outlines);
    await view.outlines.load();
  }

  text() {
    return url.write(this.app.views.map((each) => each.state()), { linked: this.app.linked?.on });
  }

  // What is seen, as a step of its own that the browser can go back from.
  push({ replace = false } = {}) {
    history[replace ? "replaceState" : "pushState"](null, "", this.text());
    this.known = location.hash;
  }

  // One that somebody else has written and that was not followed yet is not written over.
  writeNow() {
    if (!this.isFollowed() || !this.app.views.every((each) => each.id)) return;
    if (this.text() !== location.hash) this.push({ replace: true });
  }
}
