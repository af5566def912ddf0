// What people drew on one slide: kept on the server as a whole after each change, never over somebody else's.
import { ApiError, ask } from "./api.js";
import { classColour } from "./colours.js";
import { hush, say, tell } from "./status.js";

const stores = new Map();
const TYPE = "application/geo+json";

// The same for both panes that show a slide.
export function drawingsOf(slide) {
  if (!stores.has(slide.id)) stores.set(slide.id, new Drawings(slide.id));
  return stores.get(slide.id);
}

export const unsaved = () => [...stores.values()].some((each) => each.state === "unsaved" || each.state === "saving");

export class Drawings extends EventTarget {
  constructor(id) {
    super();
    this.url = `/slides/${id}/drawings`;
    this.features = [];
    this.past = [];
    this.future = [];
    this.tag = null;
    this.base = new Map(); // what lay on the server, to tell what was changed here
    this.selected = null;
    this.state = "loading"; // loading | saved | saving | unsaved
    this.ready = this.load().catch((error) => this.failed(error));
  }

  async load() {
    const answer = await ask(this.url);
    this.take((await answer.json()).features, answer.headers.get("etag"));
    this.features = [...this.base.values()];
    this.past = [];
    this.future = [];
    this.turn("saved");
  }

  take(features, tag) {
    this.tag = tag;
    this.base = new Map(features.map((each) => ({ ...each, id: each.id ?? newId() })).map((each) => [each.id, each]));
  }

  turn(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }

  find(id) {
    return this.features.find((each) => each.id === id);
  }

  add(geometry, group) {
    const id = newId();
    this.change([...this.features, {
      type: "Feature", id, geometry,
      properties: { objectType: "annotation", classification: { name: group, color: classColour(group) } },
    }]);
    this.selected = id;
    say(`${group} drawn`);
  }

  remove(id) {
    if (!this.find(id)) return;
    this.change(this.features.filter((each) => each.id !== id));
    say("Shape deleted; Ctrl+Z brings it back");
  }

  rename(id, { group, name }) {
    this.change(this.features.map((each) => (each.id !== id ? each : {
      ...each,
      properties: {
        ...each.properties, ...(name !== undefined && { name: name || undefined }),
        ...(group !== undefined && { classification: { name: group, color: classColour(group) } }),
      },
    })));
  }

  change(features) {
    this.past.push(this.features);
    this.future = [];
    this.put(features);
  }

  undo() {
    if (!this.past.length) return;
    this.future.push(this.features);
    this.put(this.past.pop());
    say("Undone");
  }

  redo() {
    if (!this.future.length) return;
    this.past.push(this.features);
    this.put(this.future.pop());
    say("Done again");
  }

  put(features) {
    this.features = features;
    if (!this.find(this.selected)) this.selected = null;
    this.turn("unsaved");
    this.save();
  }

  // One request at a time; what changes meanwhile goes with the next.
  async save() {
    if (this.state === "saving" || this.tag === null) return;
    const sent = this.features;
    this.turn("saving");
    try {
      const body = JSON.stringify({ type: "FeatureCollection", features: sent });
      const answer = await ask(this.url, { method: "PUT", body, headers: { "Content-Type": TYPE, "If-Match": this.tag } });
      this.take(sent, (await answer.json()).etag);
      hush();
      this.turn(this.features === sent ? "saved" : "unsaved");
      if (this.features !== sent) this.save();
    } catch (error) {
      this.failed(error);
    }
  }

  failed(error) {
    if (!(error instanceof ApiError)) throw error;
    this.turn(this.tag === null ? "loading" : "unsaved");
    if (error.code === "changed") {
      tell("Not saved: somebody else has changed the drawings of this slide.", {
        kind: "error", actions: [["Keep both", () => this.keepBoth()], ["Take theirs", () => this.load().catch((e) => this.failed(e))]],
      });
    } else {
      tell(`${this.tag === null ? "Drawings could not be loaded" : "Not saved"}: ${error.message}`, {
        kind: "error", actions: [["Try again", () => (this.tag === null ? this.load().catch((e) => this.failed(e)) : this.save())]],
      });
    }
  }

  // Theirs, with what was added, changed and deleted here since both were the same.
  async keepBoth() {
    try {
      const mine = new Map(this.features.map((each) => [each.id, each])), before = this.base;
      const answer = await ask(this.url);
      this.take((await answer.json()).features, answer.headers.get("etag"));
      const merged = new Map(this.base);
      for (const id of before.keys()) if (!mine.has(id)) merged.delete(id);
      for (const [id, each] of mine) if (before.get(id) !== each) merged.set(id, each);
      this.past.push(this.features);
      this.put([...merged.values()]);
    } catch (error) {
      this.failed(error);
    }
  }
}

// randomUUID is there in secure places only, such as 127.0.0.1; not behind a plain --host.
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((each) => each.toString(16).padStart(2, "0")).join("").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
