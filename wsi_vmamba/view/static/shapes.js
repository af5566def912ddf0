// Geometry of what is drawn, in level-0 pixels.
export const distance = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);

export function polygon(points) {
  const ring = points.map(({ x, y }) => [round(x), round(y)]);
  return { type: "Polygon", coordinates: [[...ring, ring[0]]] };
}

export const rectangle = (a, b) => polygon([a, { x: b.x, y: a.y }, b, { x: a.x, y: b.y }]);

const round = (value) => Math.round(value * 100) / 100;

// Leaves out points that lie within a tolerance of the line through the others (Douglas and Peucker).
export function simplify(points, tolerance) {
  if (points.length < 3) return points;
  const keep = new Uint8Array(points.length), stack = [[0, points.length - 1]];
  keep[0] = keep[points.length - 1] = 1;
  while (stack.length) {
    const [from, to] = stack.pop();
    let far = 0, at = -1;
    for (let i = from + 1; i < to; i++) {
      const off = toSegment(points[i], points[from], points[to]);
      if (off > far) [far, at] = [off, i];
    }
    if (far > tolerance) {
      keep[at] = 1;
      stack.push([from, at], [at, to]);
    }
  }
  return points.filter((_, index) => keep[index]);
}

function toSegment(p, a, b) {
  const length2 = (b.x - a.x) ** 2 + (b.y - a.y) ** 2;
  const part = length2 ? Math.max(0, Math.min(1, ((p.x - a.x) * (b.x - a.x) + (p.y - a.y) * (b.y - a.y)) / length2)) : 0;
  return distance(p, { x: a.x + part * (b.x - a.x), y: a.y + part * (b.y - a.y) });
}

const ringArea = (ring) => Math.abs(ring.reduce((sum, [x, y], i) => {
  const [nx, ny] = ring[(i + 1) % ring.length];
  return sum + x * ny - nx * y;
}, 0)) / 2;

export function areaOf({ type, coordinates }) {
  const polygons = type === "Polygon" ? [coordinates] : type === "MultiPolygon" ? coordinates : [];
  return polygons.reduce((sum, [outer, ...holes]) => sum + ringArea(outer) - holes.reduce((part, hole) => part + ringArea(hole), 0), 0);
}

export function boundsOf({ coordinates }) {
  const flat = coordinates.flat(Infinity);
  const xs = flat.filter((_, index) => index % 2 === 0), ys = flat.filter((_, index) => index % 2);
  const span = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const [x0, x1] = span(xs), [y0, y1] = span(ys);
  return { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
}
