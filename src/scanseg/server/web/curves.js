// Curves over epochs as SVG made by DOM calls: axes, lines, a legend, and a sentence for those who do not see them.

import { el, put, svg } from "./dom.js";
import { number } from "./format.js";
import { t } from "./texts.js";

const HEIGHT = 210;
const SIDES = { left: 54, right: 12, top: 10, bottom: 30 };
const MOST_POINTS = 1200;

/**
 * Returns round numbers that span a range.
 * @param {number} low
 * @param {number} high Above `low`.
 * @param {number} count About so many.
 */
export function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((part) => part * power).find((one) => one >= rough * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

/** Returns the path of a line; where a value is missing, it has a gap. */
export function pathOf(points) {
  let pen = "M";
  const parts = [];
  for (const [x, y] of points) {
    if (y === null) {
      pen = "M";
      continue;
    }
    parts.push(`${pen}${x.toFixed(1)} ${y.toFixed(1)}`);
    pen = "L";
  }
  return parts.join("");
}

/**
 * Returns a figure with curves and a function that draws them.
 * @param {object} spec `id`; `title`; `lines`: [{ name, kind, value(record) }]; `range`: [low, high] or null for that of the values.
 * @param {(epoch: number) => void} onPoint Told the epoch under the pointer.
 */
export function curves(spec, onPoint) {
  const picture = svg("svg", { role: "img", class: "curves", height: HEIGHT, "aria-labelledby": `${spec.id}-title ${spec.id}-said` });
  const said = el("p.hidden", { id: `${spec.id}-said` });
  const legend = el("ul.legend");
  const node = el("figure.chart", { id: spec.id }, el("h3", { id: `${spec.id}-title`, text: spec.title }), picture, legend, said);
  let scale = null;
  picture.addEventListener("pointermove", (event) => {
    if (scale) onPoint(scale.epoch(event.clientX - picture.getBoundingClientRect().left));
  });
  return {
    node,
    draw(records, chosen) {
      const lines = spec.lines(records);
      const width = Math.max(260, Math.floor(node.clientWidth) || 600);
      scale = scaleOf(records, lines, spec.range, width);
      picture.setAttribute("width", width);
      picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      put(picture, scale ? [...axes(scale, width), ...lines.map((line) => drawn(line, records, scale)), mark(scale, chosen)] : [nothing(width)]);
      put(legend, lines.length > 1 ? lines.map((line) => el("li", {}, sample(line), el("span", { text: line.name }))) : []);
      said.textContent = lines.map((line) => sentence(line, records)).join(" ");
    },
  };
}

function valuesOf(line, records) {
  return records.map((record) => line.value(record)).filter((value) => value !== null && value !== undefined);
}

function scaleOf(records, lines, range, width) {
  const values = lines.flatMap((line) => valuesOf(line, records));
  if (!values.length) return null;
  const first = records[0].epoch;
  const last = Math.max(records.at(-1).epoch, first + 1);
  let [low, high] = range ?? [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  if (high - low < 1e-12 * Math.max(1, Math.abs(high))) [low, high] = [low - (Math.abs(low) || 1) * 0.05, high + (Math.abs(high) || 1) * 0.05];
  const [across, down] = [width - SIDES.left - SIDES.right, HEIGHT - SIDES.top - SIDES.bottom];
  return {
    first, last, low, high,
    x: (epoch) => SIDES.left + ((epoch - first) / (last - first)) * across,
    y: (value) => SIDES.top + (1 - (value - low) / (high - low)) * down,
    epoch: (x) => Math.min(records.at(-1).epoch, Math.max(first, Math.round(first + ((x - SIDES.left) / across) * (last - first)))),
  };
}

function axes(scale, width) {
  const [right, bottom] = [width - SIDES.right, HEIGHT - SIDES.bottom];
  const rows = ticks(scale.low, scale.high, 4).flatMap((value) => [
    svg("line", { class: "grid", x1: SIDES.left, x2: right, y1: scale.y(value), y2: scale.y(value) }),
    svg("text", { x: SIDES.left - 7, y: scale.y(value) + 4, "text-anchor": "end", text: number(value) }),
  ]);
  const columns = ticks(scale.first, scale.last, Math.max(2, Math.floor(width / 110))).filter(Number.isInteger)
    .map((epoch) => svg("text", { x: scale.x(epoch), y: bottom + 17, "text-anchor": "middle", text: String(epoch) }));
  return [...rows, svg("line", { class: "axis", x1: SIDES.left, x2: right, y1: bottom, y2: bottom }), ...columns];
}

function drawn(line, records, scale) {
  const stride = Math.max(1, Math.ceil(records.length / MOST_POINTS));
  const shown = records.filter((_, index) => index % stride === 0 || index === records.length - 1);
  const points = shown.map((record) => {
    const value = line.value(record) ?? null;
    return [scale.x(record.epoch), value === null ? null : scale.y(Math.min(scale.high, Math.max(scale.low, value)))];
  });
  const known = points.filter(([, y]) => y !== null);
  // One point alone makes no line.
  if (known.length === 1) return svg("circle", { class: `dot-${line.kind}`, "data-line": line.kind, cx: known[0][0], cy: known[0][1], r: 3 });
  return svg("path", { class: `line-${line.kind}`, "data-line": line.kind, d: pathOf(points) });
}

function mark(scale, chosen) {
  const x = scale.x(Math.min(scale.last, Math.max(scale.first, chosen)));
  return svg("line", { class: "mark", x1: x, x2: x, y1: SIDES.top, y2: HEIGHT - SIDES.bottom });
}

function nothing(width) {
  return svg("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle", text: t("curveEmpty") });
}

function sample(line) {
  return svg("svg", { width: 22, height: 8, "aria-hidden": "true" }, svg("path", { class: `line-${line.kind}`, d: "M0 4L22 4" }));
}

function sentence(line, records) {
  const values = valuesOf(line, records);
  if (!values.length) return t("curveSaidNone", { name: line.name });
  const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  return t("curveSaid", { name: line.name, first: number(values[0]), last: number(values.at(-1)), low: number(low), high: number(high), n: values.length });
}
