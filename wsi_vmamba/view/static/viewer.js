// The page: puts its parts together and says what happens between them.
import { getJson } from "./api.js";
import { App } from "./app.js";
import { $ } from "./dom.js";
import { unsaved } from "./drawings.js";
import { drawIcons } from "./icons.js";
import { setUpKeys } from "./keys.js";
import { fail } from "./status.js";
import { setUpTheme } from "./theme.js";

drawIcons();
setUpTheme();
const press = (id, action) => $(id).addEventListener("click", action);

try {
  const session = await getJson("/session");
  const app = new App(session);
  setUpKeys(app);
  press("previous", () => app.list.step(-1));
  press("next", () => app.list.step(1));
  press("pair", () => app.pair());
  press("link", () => app.link());
  press("ask-help", () => app.help());
  press("zoom-in", () => app.view.zoom(1.5));
  press("zoom-out", () => app.view.zoom(1 / 1.5));
  press("home", () => app.view.pane.home());
  press("turn", () => app.view.turn(90));
  press("flip", () => app.view.flip());
  for (const button of document.querySelectorAll("[data-choose]")) {
    button.addEventListener("click", () => app.tools.choose(button.dataset.choose));
  }
  window.addEventListener("popstate", () => app.address.follow());
  window.addEventListener("beforeunload", (event) => unsaved() && event.preventDefault());
  await app.start();
} catch (error) {
  fail(error);
}
