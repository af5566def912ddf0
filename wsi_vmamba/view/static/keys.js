// Every key, with what it does; the help is made from the same table.
import { $, make } from "./dom.js";

// action(app) of each key; keys that share a line are the same action with another value.
export const KEYS = [
  ["Slides", [
    [["n", "j"], "Next slide", (app) => app.list.step(1)],
    [["p", "k"], "Previous slide", (app) => app.list.step(-1)],
    [["/"], "Search the list", (app) => app.search()],
    [["x"], "Two slides side by side, or one", (app) => app.pair()],
    [["l"], "Link or part two slides", (app) => app.link()],
    [["o"], "Work on the other of two slides", (app) => app.other()],
  ]],
  ["Moving", [
    [["ArrowLeft"], null, (app) => app.view.pan(-1, 0)], [["ArrowRight"], null, (app) => app.view.pan(1, 0)],
    [["ArrowUp"], null, (app) => app.view.pan(0, -1)], [["ArrowDown"], "Move the slide", (app) => app.view.pan(0, 1), "← → ↑ ↓"],
    [["+", "="], "Zoom in", (app) => app.view.zoom(1.5)], [["-", "_"], "Zoom out", (app) => app.view.zoom(1 / 1.5)],
    [["0", "Home"], "The whole slide", (app) => app.view.pane.home()],
    [["1"], "One screen pixel for one pixel of the slide", (app) => app.view.pane.go({ k: 1 })],
    [["r"], "Turn right by 90°", (app) => app.view.turn(90)], [["R"], "Turn left by 90°", (app) => app.view.turn(-90)],
    [["f"], "Flip", (app) => app.view.flip()],
  ]],
  ["Layers", [
    [["h"], "Hide or show the layer", (app) => app.view.heat.toggle("hidden")],
    [["c"], "Curtain", (app) => app.view.heat.toggleCurtain()],
    [["s"], "Smooth or square", (app) => app.view.heat.toggle("smooth")],
    [[","], "Less opaque", (app) => app.view.heat.fade(-0.1)], [["."], "More opaque", (app) => app.view.heat.fade(0.1)],
    [["t"], "Truth outlines", (app) => app.view.outlines.toggle("truth")], [["u"], "Predicted outlines", (app) => app.view.outlines.toggle("predicted")],
  ]],
  ["Drawing", [
    [["v"], "Move and look", (app) => app.tools.choose("move")], [["b"], "Rectangle", (app) => app.tools.choose("rectangle")],
    [["g"], "Polygon", (app) => app.tools.choose("polygon")], [["w"], "Freehand", (app) => app.tools.choose("freehand")],
    [["m"], "Measure a distance", (app) => app.tools.choose("measure")],
    [["Enter"], "End the polygon", (app) => app.tools.finish()], [["Escape"], "Leave what was begun", (app) => app.escape()],
    [["Delete", "Backspace"], "Delete the chosen shape", (app) => app.view.drawings?.remove(app.view.drawings.selected)],
    [["Ctrl+z"], "Undo", (app) => app.view.drawings?.undo()], [["Ctrl+Z", "Ctrl+y"], "Do again", (app) => app.view.drawings?.redo()],
  ]],
  ["Page", [
    [["["], "Fold the list", (app) => app.fold("left")], [["]"], "Fold the panel of layers", (app) => app.fold("right")],
    [["?"], "This help", (app) => app.help()],
  ]],
];

const NAMES = { Escape: "Esc", Delete: "Del", "Ctrl+Z": "Ctrl+Shift+z" };

export function setUpKeys(app) {
  const actions = new Map(KEYS.flatMap(([, lines]) => lines).flatMap(([keys, , action]) => keys.map((key) => [key, action])));
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.defaultPrevented || $("help").open || isTyping(event.target, event.key)) return;
    const action = actions.get((event.ctrlKey || event.metaKey ? "Ctrl+" : "") + event.key);
    if (!action) return;
    event.preventDefault();
    action(app);
  });
  $("keys").replaceChildren(...KEYS.map(([title, lines]) => make("section", {}, make("h3", { text: title }), make("dl", {},
    ...lines.filter(([, text]) => text).flatMap(([keys, text, , shown]) => [
      make("dt", {}, ...(shown ? shown.split(" ") : keys).map((key) => make("kbd", { text: NAMES[key] ?? key }))), make("dd", { text }),
    ])))));
}

// Keys belong to the field that is typed in, and to the control that knows them itself.
function isTyping(target, key) {
  if (target.matches("input[type=search], input[type=text], input[type=number], input:not([type]), textarea")) return key !== "Escape" || target.value !== "";
  if (target.matches("select, input[type=range]")) return key.length > 1 || target.matches("select");
  return target.matches("button, summary, a, input") && (key === "Enter" || key === " ");
}
