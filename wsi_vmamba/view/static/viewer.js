// The least that shows a slide: the list, and the one that was chosen.
const OpenSeadragon = window.OpenSeadragon;
const viewer = OpenSeadragon({ element: document.getElementById("picture"), showNavigationControl: false });

function tileSource(slide) {
  const levels = [...slide.levels].reverse();
  const width0 = slide.size.width;
  const box = (level, x, y) => {
    const l = levels[level], o = slide.overlap;
    return {
      x0: Math.max(0, x * l.tile_width - o), x1: Math.min(l.width, (x + 1) * l.tile_width + o),
      y0: Math.max(0, y * l.tile_height - o), y1: Math.min(l.height, (y + 1) * l.tile_height + o), l,
    };
  };
  return {
    width: width0, height: slide.size.height, tileOverlap: slide.overlap,
    minLevel: 0, maxLevel: levels.length - 1,
    getLevelScale: (level) => 1 / levels[level].downsample,
    getTileWidth: (level) => levels[level].tile_width,
    getTileHeight: (level) => levels[level].tile_height,
    getNumTiles: (level) => new OpenSeadragon.Point(levels[level].columns, levels[level].rows),
    getTileBounds: (level, x, y, isSource) => {
      const b = box(level, x, y), s = b.l.downsample / width0;
      if (isSource) return new OpenSeadragon.Rect(0, 0, b.x1 - b.x0, b.y1 - b.y0);
      return new OpenSeadragon.Rect(b.x0 * s, b.y0 * s, (b.x1 - b.x0) * s, (b.y1 - b.y0) * s);
    },
    getTileUrl: (level, x, y) => slide.tile_url.replace("{level}", levels[level].level)
      .replace("{column}", x).replace("{row}", y),
  };
}

async function show(id) {
  const slide = await (await fetch(`/slides/${id}`)).json();
  if (!slide.error) viewer.open(tileSource(slide));
}

const list = await (await fetch("/slides")).json();
for (const slide of list.slides) {
  const button = document.createElement("button");
  button.textContent = slide.error ? `${slide.name}: ${slide.error}` : slide.name;
  button.addEventListener("click", () => show(slide.id));
  document.getElementById("slides").append(button);
}
if (list.slides.length) show(list.slides[0].id);
