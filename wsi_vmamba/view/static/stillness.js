// Says on the stage, as aria-busy, whether what is seen is what was asked for: false once nothing is loaded, nothing has
// moved and two pictures in a row were drawn since.
import { $ } from "./dom.js";

const PICTURES = 2;

export class Stillness {
  constructor(isBusy) {
    this.isBusy = isBusy;
    this.drawn = 0;
    this.asked = null;
  }

  // Something has changed, or is about to.
  stir() {
    this.drawn = 0;
    $("stage").setAttribute("aria-busy", "true");
    this.asked ??= requestAnimationFrame(() => this.look());
  }

  look() {
    this.asked = null;
    if (this.isBusy()) this.drawn = 0;
    else if (this.drawn++ === PICTURES) {
      $("stage").setAttribute("aria-busy", "false");
      return;
    }
    this.asked = requestAnimationFrame(() => this.look());
  }
}
