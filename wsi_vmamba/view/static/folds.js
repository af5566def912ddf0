// Panels that fold away: beside the slide where there is room, over it on a phone.
import { $ } from "./dom.js";

const narrow = window.matchMedia("(max-width: 760px)");
const PANELS = { left: "slides-panel", right: "side-panel" };

export function setUpFolds(changed) {
  for (const side of Object.keys(PANELS)) {
    $(`fold-${side}`).addEventListener("click", () => fold(side));
    $(PANELS[side]).querySelector(".close").addEventListener("click", () => fold(side, false));
  }
  const fit = () => {
    for (const side of Object.keys(PANELS)) fold(side, !narrow.matches, false);
  };
  function fold(side, open = !isOpen(side), focus = true) {
    if (open && narrow.matches) for (const other of Object.keys(PANELS)) if (other !== side) put(other, false);
    put(side, open);
    if (focus && open && narrow.matches) $(PANELS[side]).querySelector(".close").focus();
    if (focus && !open) $(`fold-${side}`).focus();
    changed();
  }
  narrow.addEventListener("change", fit);
  fit();
  return fold;
}

export const isNarrow = () => narrow.matches;
export const isOpen = (side) => document.body.classList.contains(`${side}-open`);

function put(side, open) {
  document.body.classList.toggle(`${side}-open`, open);
  $(`fold-${side}`).setAttribute("aria-expanded", String(open));
  $(PANELS[side]).inert = !open;
}
