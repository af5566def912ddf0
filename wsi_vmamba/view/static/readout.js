// What the page says in words: scale bar, magnification, where the pointer is, facts of the slide.
import { $, make } from "./dom.js";
import { count, labelWord, microns, nice, score, times } from "./format.js";

const WIDEST_PX = 140;

export function showScale({ slide }, frame) {
  const mpp = slide.mpp || 1, length = nice((WIDEST_PX / frame.k) * mpp);
  $("scale-bar").style.width = `${(length / mpp) * frame.k}px`;
  $("scale-text").textContent = slide.mpp ? microns(length) : `${count(length)} px`;
  // 0.25 µm a pixel is what 40x means.
  const power = slide.objective_power || (slide.mpp ? 10 / slide.mpp : null);
  $("magnification").textContent = power ? times(power * frame.k) : `1 : ${Number((1 / frame.k).toPrecision(3))}`;
}

export function showPoint({ slide }, at, value = "") {
  if (!slide || !at) {
    $("position").textContent = "";
    return;
  }
  const um = slide.mpp ? `${count(at.x * slide.mpp)}, ${count(at.y * slide.mpp)} µm · ` : "";
  $("position").textContent = `${um}${count(Math.floor(at.x))}, ${count(Math.floor(at.y))} px${value && ` · ${value}`}`;
}

export function showAbout(slide) {
  const { size, mpp, properties, reader } = slide;
  const rows = [
    ["Size", `${count(size.width)} × ${count(size.height)} px`],
    mpp && ["On the glass", `${microns(size.width * mpp)} × ${microns(size.height * mpp)}`],
    ["Resolution", mpp ? `${Number(mpp.toPrecision(4))} µm a pixel` : "unknown"],
    slide.objective_power && ["Objective", `${slide.objective_power}×`],
    slide.score !== null && ["Score", score(slide.score)],
    ["Levels", `${slide.levels.length}${slide.levels.some((each) => each.made) ? `, ${slide.levels.filter((each) => each.made).length} made here` : ""}`],
    ["Read by", properties.vendor ? `${reader} (${properties.vendor})` : reader],
    slide.icc_profile && ["Colour profile", slide.icc_profile.carried ? "shown with it" : "too long to travel with tiles; left out"],
    slide.warning && ["Note", slide.warning],
    ...Object.entries(slide.extra),
  ].filter(Boolean);
  $("about").replaceChildren(...rows.flatMap(([term, text]) => [make("dt", { text: term }), make("dd", { text })]));
  $("labels").replaceChildren(...Object.entries(slide.pictures).map(([name, src]) => make("img", { src, alt: `The slide's ${name}` })));
}

// Name and verdict in the head of the page.
export function showHeadline(slide) {
  $("title").textContent = slide.name;
  document.title = `${slide.name} · wsi-vmamba`;
  const called = slide.decision !== null && `called ${labelWord(slide.decision)}${slide.wrong ? ", which is wrong" : ""}`;
  const words = [slide.split, slide.label !== null && labelWord(slide.label), slide.score !== null && `score ${score(slide.score)}`, called];
  $("verdict").textContent = words.filter(Boolean).join(" · ");
  $("verdict").classList.toggle("is-wrong", slide.wrong);
}
