// The slide's own tile grid for OpenSeadragon, which counts levels from the coarsest. Of a level that is coarse for now,
// another address is asked when more of the slide has been read.
const { Point, Rect } = window.OpenSeadragon;

export function tileSource(slide, read = 0) {
  const levels = [...slide.levels].reverse();
  const width0 = slide.size.width, overlap = slide.overlap;
  const box = (level, x, y) => ({
    x0: Math.max(0, x * level.tile_width - overlap), x1: Math.min(level.width, (x + 1) * level.tile_width + overlap),
    y0: Math.max(0, y * level.tile_height - overlap), y1: Math.min(level.height, (y + 1) * level.tile_height + overlap),
  });
  return {
    width: width0, height: slide.size.height, tileOverlap: overlap, minLevel: 0, maxLevel: levels.length - 1,
    getLevelScale: (level) => 1 / levels[level].downsample,
    getTileWidth: (level) => levels[level].tile_width,
    getTileHeight: (level) => levels[level].tile_height,
    getNumTiles: (level) => new Point(levels[level].columns, levels[level].rows),
    getTileBounds(level, x, y, isSource) {
      const found = box(levels[level], x, y), scale = isSource ? 1 : levels[level].downsample / width0;
      return new Rect(
        isSource ? 0 : found.x0 * scale, isSource ? 0 : found.y0 * scale,
        (found.x1 - found.x0) * scale, (found.y1 - found.y0) * scale,
      );
    },
    getTileUrl: (level, x, y) => slide.tile_url
      .replace("{level}", levels[level].level).replace("{column}", x).replace("{row}", y) + (levels[level].coarse ? `&read=${read}` : ""),
  };
}
