// Small pictures of the buttons, 20 by 20, drawn with lines.
const PATHS = {
  list: "M7 5h10M7 10h10M7 15h10M3 5h.5M3 10h.5M3 15h.5",
  panel: "M3 4h14v12H3zM12 4v12",
  home: "M3 9l7-6 7 6M5 8v8h10V8",
  turn: "M15.5 6.5A7 7 0 1 0 17 11M16 2.5v4h-4",
  flip: "M10 3v14M7 6L3 14h4zM13 6l4 8h-4z",
  pair: "M3 4h6v12H3zM11 4h6v12h-6z",
  link: "M8 12l4-4M7 9L5 11a3 3 0 0 0 4 4l2-2M13 11l2-2a3 3 0 0 0-4-4L9 7",
  move: "M4 3l11 6-5 1.5L8 16z",
  rectangle: "M3 5h14v10H3z",
  polygon: "M10 3l7 5-3 8H6L3 8z",
  freehand: "M3 14c2-9 5-11 6-9s-3 8-1 9 4-6 6-6 0 5 3 5",
  measure: "M2 13L13 2l5 5L7 18zM6 9l2 2M9 6l2 2M12 3.5l1 1",
  plus: "M10 4v12M4 10h12", minus: "M4 10h12",
  previous: "M12 4l-6 6 6 6", next: "M8 4l6 6-6 6",
  help: "M7.5 7.5a2.5 2.5 0 1 1 3.6 2.2c-.8.4-1.1.9-1.1 1.8M10 14.5v.2M10 18a8 8 0 1 0 0-16 8 8 0 0 0 0 16",
  auto: "M10 17a7 7 0 1 0 0-14zM10 3v14", light: "M10 13a3 3 0 1 0 0-6 3 3 0 0 0 0 6M10 2v2M10 16v2M2 10h2M16 10h2M4.3 4.3l1.4 1.4M14.3 14.3l1.4 1.4M4.3 15.7l1.4-1.4M14.3 5.7l1.4-1.4",
  dark: "M16 12A7 7 0 0 1 8 4a7 7 0 1 0 8 8",
  close: "M5 5l10 10M15 5L5 15",
};
const SVG = "http://www.w3.org/2000/svg";

export function drawIcon(button, name) {
  const svg = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 20 20", width: 20, height: 20, "aria-hidden": "true" })) svg.setAttribute(key, value);
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  button.querySelector("svg")?.remove();
  button.prepend(svg);
}

// The label of a button is what a screen reader says and what is shown on hovering.
export function drawIcons() {
  for (const button of document.querySelectorAll("button[data-icon]")) {
    drawIcon(button, button.dataset.icon);
    button.title ||= button.getAttribute("aria-label");
  }
}
