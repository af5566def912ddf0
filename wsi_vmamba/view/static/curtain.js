// The edge of the heatmap that is dragged over the slide, by pointer or arrow keys.
import { make } from "./dom.js";

export function hang(view) {
  const { pane, heat } = view;
  const grip = make("span", { class: "grip", "aria-hidden": "true" });
  const handle = make("div", {
    class: "curtain", role: "slider", tabindex: "0", hidden: true, "aria-label": "Curtain: layer on its left, slide alone on its right",
    "aria-orientation": "horizontal", "aria-valuemin": "0", "aria-valuemax": "100",
  }, grip);
  pane.root.append(handle);
  const move = (part) => heat.set({ curtain: Math.max(0, Math.min(1, part)) });
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    event.preventDefault();
  });
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = pane.root.getBoundingClientRect();
    move((event.clientX - box.left) / box.width);
  });
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.2, PageUp: 0.2 }[event.key];
    const to = { Home: 0, End: 1 }[event.key] ?? (step && heat.look.curtain + step);
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    move(to);
  });
  const update = () => {
    const { curtain, hidden } = heat.look;
    handle.hidden = curtain === null || hidden || !heat.painted;
    if (curtain === null) return;
    handle.style.left = `${100 * curtain}%`;
    handle.setAttribute("aria-valuenow", String(Math.round(100 * curtain)));
  };
  heat.addEventListener("change", update);
}
