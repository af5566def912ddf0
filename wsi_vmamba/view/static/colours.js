// Colour maps: lightness rises evenly from the first colour to the last, so they read the same in grey and to
// colour-blind eyes. Each is a short table of OKLCH colours [lightness, chroma, hue in degrees].
const TABLES = {
  meadow: { title: "Blue, green, yellow", stops: [[0.27, 0.12, 292], [0.43, 0.11, 262], [0.59, 0.1, 205], [0.75, 0.15, 155], [0.92, 0.18, 108]] },
  evening: { title: "Blue to yellow", stops: [[0.28, 0.1, 262], [0.6, 0.03, 100], [0.92, 0.16, 100]] },
  ember: { title: "Violet, red, cream", stops: [[0.22, 0.1, 292], [0.41, 0.17, 345], [0.6, 0.19, 32], [0.78, 0.16, 72], [0.95, 0.07, 98]] },
  grey: { title: "Grey", stops: [[0.2, 0, 0], [0.97, 0, 0]] },
};

// Apart from each other for colour-blind people too (Okabe and Ito).
export const OUTLINE_COLOURS = {
  truth: "#d55e00", predicted: "#0072b2", tissue: "#009e73", regions: "#56b4e9",
};
const CLASS_COLOURS = {
  Tumor: [213, 94, 0], Normal: [0, 114, 178], Tissue: [0, 158, 115], Ignore: [110, 110, 110],
};
const MORE = [[204, 121, 167], [230, 159, 0], [86, 180, 233], [120, 94, 240], [0, 130, 130], [160, 70, 60]];

export const MAPS = Object.entries(TABLES).map(([id, { title }]) => ({ id, title }));
const made = new Map();

// 256 colours as [r, g, b] bytes in one array.
export function colourTable(id) {
  if (!made.has(id)) made.set(id, build((TABLES[id] || TABLES.meadow).stops));
  return made.get(id);
}

export function classColour(name) {
  if (CLASS_COLOURS[name]) return CLASS_COLOURS[name];
  let hash = 7;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  return MORE[hash % MORE.length];
}

export const css = ([r, g, b], alpha = 1) => `rgba(${r}, ${g}, ${b}, ${alpha})`;

export function hexBytes(hex) {
  const number = parseInt(hex.slice(1), 16);
  return [number >> 16, (number >> 8) & 255, number & 255];
}

// Gives a canvas the colours from first to last, left to right.
export function paintLegend(canvas, id) {
  const table = colourTable(id), context = canvas.getContext("2d");
  canvas.width = 256;
  canvas.height = 1;
  const image = context.createImageData(256, 1);
  for (let i = 0; i < 256; i++) image.data.set([table[3 * i], table[3 * i + 1], table[3 * i + 2], 255], 4 * i);
  context.putImageData(image, 0, 0);
}

function build(stops) {
  const table = new Uint8ClampedArray(256 * 3);
  const points = stops.map(([l, c, h]) => [l, c * Math.cos((h * Math.PI) / 180), c * Math.sin((h * Math.PI) / 180)]);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (points.length - 1), from = Math.min(points.length - 2, Math.floor(at)), part = at - from;
    const lab = points[from].map((value, axis) => value + part * (points[from + 1][axis] - value));
    table.set(rgb(lab), 3 * i);
  }
  return table;
}

// OKLab to 8-bit sRGB (Ottosson 2020).
function rgb([l, a, b]) {
  const cube = [l + 0.3963377774 * a + 0.2158037573 * b, l - 0.1055613458 * a - 0.0638541728 * b, l - 0.0894841775 * a - 1.291485548 * b].map((v) => v ** 3);
  return [
    4.0767416621 * cube[0] - 3.3077115913 * cube[1] + 0.2309699292 * cube[2],
    -1.2684380046 * cube[0] + 2.6097574011 * cube[1] - 0.3413193965 * cube[2],
    -0.0041960863 * cube[0] - 0.7034186147 * cube[1] + 1.707614701 * cube[2],
  ].map((v) => 255 * (v <= 0.0031308 ? 12.92 * Math.max(0, v) : 1.055 * v ** (1 / 2.4) - 0.055));
}
