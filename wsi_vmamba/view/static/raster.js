// Layers of one pixel per patch: loaded as numbers, painted as colours.
import { ask, getJson } from "./api.js";
import { colourTable, hexBytes } from "./colours.js";

export async function loadRaster(url) {
  const about = await getJson(url);
  const blob = await (await ask(about.png)).blob();
  const bitmap = await createImageBitmap(blob, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(about.columns, about.rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = context.getImageData(0, 0, about.columns, about.rows).data;
  const size = about.columns * about.rows, values = about.encoding.kind === "rgb" ? null : new Float32Array(size).fill(NaN);
  const has = new Uint8Array(size);
  for (let i = 0; i < size; i++) {
    if (!pixels[4 * i + 3]) continue;
    has[i] = 1;
    if (!values) continue;
    const step = pixels[4 * i] * 256 + pixels[4 * i + 1], { kind, low, high } = about.encoding;
    values[i] = kind === "classes" ? step : low + (step / 65535) * (high - low);
  }
  return { about, pixels, values, has };
}

// The pixel of the layer under a point of level 0; -1 where there is no patch.
export function indexAt({ about, has }, x, y) {
  const box = about.rectangle_l0;
  const column = Math.floor(((x - box.x) / box.width) * about.columns), row = Math.floor(((y - box.y) / box.height) * about.rows);
  if (column < 0 || row < 0 || column >= about.columns || row >= about.rows) return -1;
  const index = row * about.columns + column;
  return has[index] ? index : -1;
}

// A canvas of one pixel per patch; values below the threshold are left out.
export function paint(raster, { map, low, high, threshold }) {
  const { about, pixels, values, has } = raster;
  const canvas = new OffscreenCanvas(about.columns, about.rows), context = canvas.getContext("2d");
  const image = context.createImageData(about.columns, about.rows), out = image.data;
  if (about.encoding.kind === "rgb") out.set(pixels);
  else if (about.encoding.kind === "classes") paintClasses(about, values, has, out);
  else {
    const table = colourTable(map), span = high - low || 1;
    for (let i = 0; i < values.length; i++) {
      if (!has[i] || !(threshold === null || values[i] >= threshold)) continue;
      const at = 3 * Math.max(0, Math.min(255, Math.round(((values[i] - low) / span) * 255)));
      out[4 * i] = table[at];
      out[4 * i + 1] = table[at + 1];
      out[4 * i + 2] = table[at + 2];
      out[4 * i + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function paintClasses(about, values, has, out) {
  const colours = new Map(about.classes.map((each) => [each.value, hexBytes(each.colour)]));
  for (let i = 0; i < values.length; i++) {
    if (has[i]) out.set([...(colours.get(values[i]) || [128, 128, 128]), 255], 4 * i);
  }
}
