// The whole view as the fragment of the address: #s=ID&x=..&y=..&k=..; the second slide's parts begin with "b.".
const NUMBERS = { x: "x", y: "y", k: "k", turn: "r", opacity: "o", threshold: "t", curtain: "c" };

export function write(panes, { linked }) {
  const parts = new URLSearchParams();
  panes.forEach((each, index) => add(parts, each, index ? "b." : ""));
  if (panes.length > 1 && !linked) parts.set("apart", "1");
  return `#${parts}`.replaceAll("%3A", ":").replaceAll("%2C", ",");
}

function add(parts, { slide, place, look, outlines }, before) {
  const put = (name, value) => parts.set(before + name, value);
  put("s", slide);
  if (place) {
    const digits = place.k > 1 ? 2 : 1;
    put("x", place.x.toFixed(digits));
    put("y", place.y.toFixed(digits));
    put("k", Number(place.k.toPrecision(6)));
    if (place.turn) put("r", Math.round(place.turn * 10) / 10);
    if (place.flip) put("f", 1);
  }
  if (look.layer !== undefined) put("l", look.layer ?? "none");
  put("o", Number(look.opacity.toFixed(2)));
  put("m", look.map);
  if (look.threshold !== null) put("t", Number(look.threshold.toPrecision(6)));
  if (look.curtain !== null) put("c", Number(look.curtain.toFixed(4)));
  if (look.smooth) put("smooth", 1);
  if (look.hidden) put("off", 1);
  put("v", [...outlines].join(",") || "none");
}

export function read(fragment) {
  const parts = new URLSearchParams(fragment.replace(/^#/, ""));
  const panes = ["", "b."].map((before) => one(parts, before)).filter(Boolean);
  return { panes, linked: !parts.has("apart") };
}

function one(parts, before) {
  const text = (name) => parts.get(before + name);
  if (!text("s")) return null;
  const number = (name) => {
    const value = Number.parseFloat(text(NUMBERS[name]));
    return Number.isFinite(value) ? value : null;
  };
  const inside = (value, low, high, other) => (value === null ? other : Math.max(low, Math.min(high, value)));
  const at = { x: number("x"), y: number("y"), k: number("k") };
  const place = Object.values(at).every((value) => value !== null) && at.k > 0
    ? { ...at, turn: number("turn") ?? 0, flip: text("f") === "1" } : null;
  const look = {
    layer: text("l") === "none" ? null : text("l") ?? undefined, opacity: inside(number("opacity"), 0, 1, 0.5),
    map: text("m") ?? "meadow", threshold: number("threshold"), curtain: inside(number("curtain"), 0, 1, null),
    smooth: text("smooth") === "1", hidden: text("off") === "1",
  };
  const outlines = text("v") === null ? ["truth"] : text("v").split(",").filter((id) => id && id !== "none");
  return { slide: text("s"), place, look, outlines };
}
