// What has happened, in one place, for eyes and screen readers.
import { $, make } from "./dom.js";

let timer = null;

// Said, not shown.
export function say(text) {
  $("spoken").textContent = text;
}

// Shown for some seconds, or until it is closed where something has to be done about it.
export function tell(text, { kind = "note", actions = [], stays = kind === "error" } = {}) {
  clearTimeout(timer);
  const box = $("message");
  const close = make("button", { class: "quiet", type: "button", "aria-label": "Close this message", text: "✕", on: { click: hush } });
  const buttons = actions.map(([title, action]) =>
    make("button", { type: "button", text: title, on: { click: () => { hush(); action(); } } }));
  box.replaceChildren(make("span", { text }), ...buttons, close);
  box.className = kind;
  box.setAttribute("role", kind === "error" ? "alert" : "status");
  box.hidden = false;
  if (!stays) timer = setTimeout(hush, 5000);
}

export function hush() {
  $("message").hidden = true;
}

export const fail = (error) => tell(error.message, { kind: "error" });
