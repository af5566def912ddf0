// One slide on the screen: the picture, and over it a canvas on which everything else is drawn in level-0 pixels.
import { ApiError, getJson } from "./api.js";
import { Coarse } from "./coarse.js";
import { make } from "./dom.js";
import { tileSource } from "./tiles.js";

const { OpenSeadragon } = window;
// OpenSeadragon adds a style of its own unless one is there, which the content security policy forbids. Its only rule
// stands in viewer.css; this element of no namespace tells it so.
const told = document.createElementNS("urn:wsi-vmamba", "style");
told.setAttribute("data-openseadragon-mobile-css", "true");
document.head.append(told);
const still = window.matchMedia("(prefers-reduced-motion: reduce)");

export class Pane extends EventTarget {
  constructor(name) {
    super();
    this.name = name;
    this.slide = null;
    this.shown = null; // the picture of it that OpenSeadragon shows
    this.drawers = []; // called with (context, frame) for every picture
    this.opening = 0;
    this.wanted = null; // where a slide that is being opened will be shown
    this.picture = make("div", { class: "picture" });
    this.canvas = make("canvas", { class: "overlay", "aria-hidden": "true" });
    this.notice = make("div", { class: "notice", hidden: true });
    this.root = make("section", { class: "pane", "aria-label": "Slide", data: { pane: name } }, this.picture, this.canvas, this.notice);
    document.getElementById("panes").append(this.root);
    this.coarse = new Coarse(this);
    this.viewer = OpenSeadragon({
      element: this.picture, showNavigationControl: false, drawer: "canvas", imageLoaderLimit: 6, maxImageCacheCount: 600,
      animationTime: still.matches ? 0 : 0.45, springStiffness: 8, visibilityRatio: 0.15, minZoomImageRatio: 0.4, maxZoomPixelRatio: 16,
      zoomPerScroll: 1.35, preserveImageSizeOnResize: true, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { dblClickToZoom: true, pinchRotate: false }, tabIndex: 0, immediateRender: false,
    });
    this.viewer.innerTracker.keyDownHandler = null; // keys.js has all keys
    this.viewer.innerTracker.keyHandler = null;
    this.viewer.canvas.setAttribute("aria-label", "Picture of the slide; arrow keys move it, plus and minus zoom, question mark lists all keys");
    this.viewer.canvas.setAttribute("role", "application");
    this.viewer.addHandler("update-viewport", () => this.draw());
    this.viewer.addHandler("resize", () => this.redraw());
    this.viewer.addHandler("canvas-click", (event) => {
      if (event.quick) this.say("press", this.toSlide(event.originalEvent.clientX, event.originalEvent.clientY));
    });
    this.root.addEventListener("pointermove", (event) => this.say("point", this.slide && this.toSlide(event.clientX, event.clientY)));
    this.root.addEventListener("pointerleave", () => this.say("point", null));
    this.root.addEventListener("pointerdown", () => this.say("used"), true);
    this.root.addEventListener("wheel", () => this.say("used"), { capture: true, passive: true });
    this.root.addEventListener("focusin", () => this.say("used"));
  }

  say(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }

  // Opens a slide at a place, or where it fits; a newer call makes an older one void.
  async show(id, place = null) {
    const mine = ++this.opening;
    this.isOpening = true;
    this.coarse.leave();
    this.wanted = place;
    this.say("opening", id);
    try {
      const slide = await getJson(`/slides/${id}`);
      if (mine !== this.opening) return false;
      await this.open(slide);
      if (mine !== this.opening) return false;
      this.isOpening = false;
      if (this.wanted) this.go(this.wanted, true);
      else this.home(true);
      this.say("opened", slide);
      this.coarse.follow(slide);
      return true;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (mine === this.opening) this.refuse(id, error.message);
      return false;
    }
  }

  // Whether sharper tiles of what is seen are still coming.
  isLoading() {
    return !!this.slide && (this.coarse.isReading() || !this.shown.getFullyLoaded());
  }

  // Shows another picture of the same slide in place of those that are there.
  replace(item) {
    const before = this.shown;
    this.shown = item;
    item.addHandler("fully-loaded-change", () => this.say("loaded"));
    this.say("loaded");
    before.setOpacity(0);
    this.removeWhenQuiet(before);
  }

  // OpenSeadragon complains of tiles that come for a picture that is gone.
  removeWhenQuiet(item) {
    const { world, imageLoader } = this.viewer;
    if (world.getIndexOfItem(item) < 0) return;
    if (imageLoader.jobsInProgress) setTimeout(() => this.removeWhenQuiet(item), 100);
    else world.removeItem(item);
  }

  refuse(id, message) {
    this.opening++;
    this.isOpening = false;
    this.slide = null;
    this.coarse.leave();
    this.viewer.close();
    this.notice.textContent = message;
    this.notice.hidden = false;
    this.draw();
    this.say("refused", { id, message });
  }

  open(slide) {
    return new Promise((resolve) => {
      this.viewer.addOnceHandler("open", () => {
        this.slide = slide;
        this.shown = this.viewer.world.getItemAt(0);
        this.shown.addHandler("fully-loaded-change", () => this.say("loaded"));
        this.notice.hidden = true;
        resolve();
      });
      this.viewer.open(tileSource(slide));
    });
  }

  // Level-0 pixels to pixels of the pane, as (a, b, c, d, e, f) of a canvas; flipped and turned as the picture is.
  frame() {
    const { viewport } = this.viewer, width = this.slide.size.width;
    const size = viewport.getContainerSize(), flip = viewport.getFlip() ? -1 : 1;
    const turn = (viewport.getRotation(true) * Math.PI) / 180, k = this.scale();
    const centre = viewport.getCenter(true), cos = Math.cos(turn) * k, sin = Math.sin(turn) * k;
    const x = centre.x * width, y = centre.y * width;
    return {
      a: flip * cos, b: sin, c: -flip * sin, d: cos, k, width: size.x, height: size.y,
      e: size.x / 2 - flip * (cos * x - sin * y), f: size.y / 2 - (sin * x + cos * y),
    };
  }

  // Screen pixels per level-0 pixel.
  scale(current = true) {
    const { viewport } = this.viewer;
    return (viewport.getContainerSize().x * viewport.getZoom(current)) / this.slide.size.width;
  }

  toScreen(x, y, frame = this.frame()) {
    return { x: frame.a * x + frame.c * y + frame.e, y: frame.b * x + frame.d * y + frame.f };
  }

  toSlide(clientX, clientY) {
    if (!this.slide) return null;
    const box = this.root.getBoundingClientRect(), { a, b, c, d, e, f } = this.frame(), det = a * d - b * c;
    const x = clientX - box.left - e, y = clientY - box.top - f;
    return { x: (d * x - c * y) / det, y: (a * y - b * x) / det };
  }

  place() {
    const { viewport } = this.viewer, centre = viewport.getCenter(false), width = this.slide.size.width;
    return {
      x: centre.x * width, y: centre.y * width, k: this.scale(false),
      turn: ((viewport.getRotation(false) % 360) + 360) % 360, flip: viewport.getFlip(),
    };
  }

  // While a slide is being opened, a whole place is where it will be shown.
  go(place, immediately = false) {
    const { x, y, k, turn, flip } = place;
    if (this.isOpening && k && x !== undefined) this.wanted = place;
    if (this.isOpening || !this.slide) return;
    const { viewport } = this.viewer, width = this.slide.size.width;
    if (turn !== undefined) viewport.setRotation(turn, immediately);
    if (flip !== undefined) viewport.setFlip(flip);
    if (k) viewport.zoomTo((k * width) / viewport.getContainerSize().x, null, immediately);
    if (x !== undefined) viewport.panTo(new OpenSeadragon.Point(x / width, y / width), immediately);
    if (!immediately) viewport.applyConstraints();
    this.redraw();
  }

  home(immediately = false) {
    this.wanted = null;
    if (this.isOpening || !this.slide) return;
    const box = this.slide.bounds_l0, width = this.slide.size.width;
    const { viewport } = this.viewer, margin = 0.02 * Math.max(box.width, box.height);
    viewport.fitBounds(new OpenSeadragon.Rect(
      (box.x - margin) / width, (box.y - margin) / width, (box.width + 2 * margin) / width, (box.height + 2 * margin) / width,
    ), immediately);
  }

  // Draws with the next picture; once, however often it is asked.
  redraw() {
    if (!this.slide) return this.draw();
    this.viewer.forceRedraw();
  }

  draw() {
    const ratio = window.devicePixelRatio || 1, { canvas } = this;
    const width = Math.round(this.root.clientWidth * ratio), height = Math.round(this.root.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.slide) return;
    const frame = { ...this.frame(), ratio };
    frame.onSlide = () => context.setTransform(frame.a * ratio, frame.b * ratio, frame.c * ratio, frame.d * ratio, frame.e * ratio, frame.f * ratio);
    frame.onScreen = () => context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const drawer of this.drawers) {
      context.save();
      drawer(context, frame);
      context.restore();
    }
    this.say("view", frame);
  }

  remove() {
    this.coarse.leave();
    this.viewer.destroy();
    this.root.remove();
  }
}
