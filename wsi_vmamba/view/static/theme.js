// Light, dark, or as the machine is set.
import { $ } from "./dom.js";
import { drawIcon } from "./icons.js";
import { say } from "./status.js";

const ORDER = ["auto", "light", "dark"];
const KEY = "wsi-vmamba.theme";

export function setUpTheme() {
  let theme = kept();
  const apply = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const words = { auto: "Theme: as the machine is set", light: "Theme: light", dark: "Theme: dark" }[theme];
    $("theme").setAttribute("aria-label", words);
    $("theme").title = words;
    drawIcon($("theme"), theme);
  };
  $("theme").addEventListener("click", () => {
    theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
    keep(theme);
    apply();
    say($("theme").title);
  });
  apply();
}

// A browser may allow no storage; then the choice lasts as long as the page.
function kept() {
  try {
    const found = localStorage.getItem(KEY);
    return ORDER.includes(found) ? found : "auto";
  } catch {
    return "auto";
  }
}

function keep(theme) {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // nothing to do
  }
}
