// Numbers for people.
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) => whole.format(value);

export function score(value) {
  if (value === null || value === undefined) return "";
  return value > 0 && value < 0.001 ? "<0.001" : value.toFixed(3);
}

// Three digits that count.
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "none";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1);
  return Number(value.toPrecision(3)).toString();
}

export function microns(um) {
  if (um >= 1000) return `${Number((um / 1000).toPrecision(3))} mm`;
  return `${um >= 100 ? um.toFixed(0) : Number(um.toPrecision(3))} µm`;
}

export const length = (px, mpp) => (mpp ? microns(px * mpp) : `${count(px)} px`);

export function area(px2, mpp) {
  if (!mpp) return `${count(px2)} px²`;
  const um2 = px2 * mpp * mpp;
  return um2 >= 1e4 ? `${Number((um2 / 1e6).toPrecision(3))} mm²` : `${count(um2)} µm²`;
}

// The largest of 1, 2, 5 times a power of ten that is not above a value.
export function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return (value >= 5 * power ? 5 : value >= 2 * power ? 2 : 1) * power;
}

export const times = (value) => `${value >= 10 ? value.toFixed(0) : Number(value.toPrecision(2))}×`;

export const labelWord = (value) => (value === 1 ? "positive" : value === 0 ? "negative" : (value ?? ""));
