// A slide without small levels: its coarse picture is shown from what has been read of it, and again as more is.
import { ApiError, getJson } from "./api.js";
import { make } from "./dom.js";
import { say } from "./status.js";
import { tileSource } from "./tiles.js";

const EACH_MS = 1000;

export class Coarse {
  constructor(pane) {
    this.pane = pane;
    this.slide = null; // that is being read
    this.note = make("div", { class: "reading", hidden: true });
    pane.root.append(this.note);
  }

  isReading() {
    return this.slide !== null;
  }

  // Nothing more is asked of the slide that was followed.
  leave() {
    this.slide = null;
    this.note.hidden = true;
  }

  // Follows a slide that has been opened, until all of it is read or another is opened.
  async follow(slide) {
    this.slide = slide.coarse ? slide : null;
    const isMine = () => this.slide === slide;
    let shown = 0;
    while (isMine()) {
      let found;
      try {
        found = await getJson(slide.coarse);
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (isMine()) this.stop(error.message);
        return;
      }
      if (!isMine()) return;
      if (found.read !== shown) await this.renew(slide, found);
      shown = found.read;
      if (!isMine()) return;
      if (found.complete) {
        this.stop("");
        this.pane.say("read", slide);
        return;
      }
      this.tell(`Coarse picture: ${Math.floor(100 * found.read)} % of the slide has been read`);
      await new Promise((done) => setTimeout(done, EACH_MS));
    }
  }

  tell(text) {
    if (this.note.hidden) say(text);
    this.note.textContent = text;
    this.note.hidden = false;
  }

  stop(text) {
    if (!text && !this.note.hidden) say("The whole slide has been read");
    this.slide = null;
    this.note.textContent = text;
    this.note.hidden = !text;
    this.pane.say("loaded");
  }

  // The same slide over itself, with what has been read since; what lay there before goes when all of that is there.
  renew(slide, found) {
    const { viewer } = this.pane;
    return new Promise((done) => {
      viewer.addTiledImage({
        tileSource: tileSource(slide, found.read),
        error: done,
        success: ({ item }) => {
          if (this.slide !== slide) {
            viewer.world.removeItem(item);
            done();
            return;
          }
          const settle = () => {
            if (!item.getFullyLoaded()) return;
            item.removeHandler("fully-loaded-change", settle);
            this.pane.replace(item);
            done();
          };
          item.addHandler("fully-loaded-change", settle);
          settle();
        },
      });
    });
  }
}
