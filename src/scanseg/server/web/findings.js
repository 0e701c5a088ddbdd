// What was measured and what follows from it. All sentences come from the server.

import { el, icon, svg } from "./dom.js";
import { number, sizeOf } from "./format.js";
import { labelChip } from "./models.js";
import { t } from "./texts.js";

/** Returns the table of measurements, with the place of each size in the training cohort. */
export function measureTable(result) {
  const heads = ["label", "size", "pieces", "largest", "score", "uncertaintyShort", "cohort"];
  return el("div.scroll", {}, el("table.measures", {},
    el("caption.hidden", { text: t("measures") }),
    el("thead", {}, el("tr", {}, heads.map((key) => el("th", { scope: "col", text: t(key), title: t(`${key}_title`) })))),
    el("tbody", {}, result.labels.map((label) => measures(label)))));
}

function measures(label) {
  const { value, unit, largest } = sizeOf(label);
  const cell = (text) => el("td.num", { text });
  return el("tr", {}, el("th", { scope: "row" }, labelChip(label)),
    sizeCell(label, value, unit), cell(String(label.components)), cell(largest === null || largest === undefined ? "-" : `${number(largest)} ${unit}`),
    cell(number(label.score, 2)), cell(number(label.uncertainty, 2)),
    el("td.cohort", {}, label.training ? cohort(label.training, value) : el("span.small", { text: t("noCohort") })));
}

/** Returns the size, and below it between which sizes the true one lies where that is known. */
function sizeCell(label, value, unit) {
  const found = label.interval;
  const between = found && t("interval", { low: number(found.low), high: number(found.high) });
  return el("td.num", {}, el("div", { text: `${number(value)} ${unit}` }),
    found && el("div.small", { text: between, title: t("interval_title", { coverage: Math.round(100 * found.coverage), n: found.patients }) }));
}

/** Returns a small histogram of the training sizes with a mark where this one lies. */
function cohort(training, value) {
  const low = Math.min(training.low, value);
  const high = Math.max(training.high, value);
  const wide = 132;
  const high_px = 26;
  const bins = Array(11).fill(0);
  const place = (size) => (high > low ? (size - low) / (high - low) : 0.5);
  for (const size of training.values) bins[Math.min(bins.length - 1, Math.floor(place(size) * bins.length))] += 1;
  const most = Math.max(...bins);
  const step = wide / bins.length;
  const bars = bins.map((count, index) => svg("rect", { class: "bin", x: index * step + 0.5, width: step - 1, y: high_px - (count / most) * (high_px - 4), height: (count / most) * (high_px - 4) }));
  const x = 1 + place(value) * (wide - 2);
  const text = t("cohortText", { value: number(value), unit: training.unit === "mm2" ? "mm²" : training.unit, low: number(training.low), high: number(training.high), n: training.cases, percentile: Math.round(training.percentile) });
  return [
    svg("svg", { class: "histogram", viewBox: `0 0 ${wide} ${high_px}`, width: wide, height: high_px, role: "img", "aria-label": text },
      ...bars, svg("line", { class: "base", x1: 0, x2: wide, y1: high_px - 0.5, y2: high_px - 0.5 }),
      svg("line", { class: "mark", x1: x, x2: x, y1: 0, y2: high_px })),
    el("span.num.small", { text: t("percentile", { value: Math.round(training.percentile), n: training.cases }), title: text }),
  ];
}

/** Returns the sentences about the mask. */
export function insightList(result) {
  const notes = result.input.checks.map((check) => entry(check, "check"));
  const found = result.insights.map((one) => entry(one, "insight"));
  if (!notes.length && !found.length) return el("p.small", { text: t("noInsights") });
  return el("ul.said", {}, [...notes, ...found]);
}

function entry(one, kind) {
  return el("li", { "data-kind": kind }, el("p", { text: one.text }), why(one));
}

function why(one) {
  if (!one.reason) return el("p.small", {}, el("span.code", { text: one.code }));
  return el("details.why", {}, el("summary", { text: t("why") }), el("p.small", { text: one.reason }),
    el("p.small", { text: t("source", { source: one.source }) }), el("p.small.code", { text: one.code }));
}

/**
 * Returns the list of next steps; those with a place move the cross-hair.
 * @param {object} result
 * @param {function} goTo Called with mm.
 */
export function nextSteps(result, goTo) {
  if (!result.next_steps.length) return el("p.small", { text: t("noSteps") });
  return el("ol.steps", {}, result.next_steps.map((step) => el("li", { "data-review": String(Boolean(step.review)), "data-priority": step.priority },
    el("p", { text: step.text }),
    el("div.row", {}, step.where_mm && el("button.quiet", { type: "button", "data-go": step.code, on: { click: () => goTo(step.where_mm) } }, icon("target"), t("showPlace")),
      why(step)))));
}

/** Returns what the model's owner wrote about labels: about the label, never about this image. */
export function information(result) {
  if (!result.information.length) return null;
  const names = new Map(result.labels.map((label) => [label.value, label]));
  return el("div", {}, el("p.small", { text: t("informationNote") }), el("dl.info", {}, result.information.flatMap((one) => [
    el("dt", {}, labelChip(names.get(one.label) ?? { name: one.name, colour: "#888888" }), el("span.small", { text: ` ${t(`information_${one.kind}`)}` })),
    el("dd", {}, el("p", { text: one.text }), el("p.small", { text: t("reference", { reference: one.reference }) })),
  ])));
}

/** Returns the facts of image, model and time. */
export function details(job, result) {
  const row = (name, value) => (value ? [el("dt", { text: t(name) }), el("dd", { text: value })] : []);
  const times = Object.entries(result.timing_s).map(([stage, seconds]) => `${t(`stage_${stage}`)} ${number(seconds, 2)} s`).join(", ");
  const tables = (result.rule_tables ?? []).map((table) => `${table.name} ${table.version}`).join(", ");
  return el("dl.facts", {},
    row("shape", result.input.shape.join(" \u00d7 ")), row("spacing", `${result.input.spacing.map((v) => number(v)).join(" \u00d7 ")} ${result.input.unit}`),
    row("channels", result.input.channels.join(", ")), row("model", `${result.model.id} ${result.model.version}`), row("network", result.model.network),
    row("validationDice", Object.entries(result.quality.validation_dice).map(([name, dice]) => `${name} ${number(dice, 2)}`).join(", ")),
    row("licence", result.model.licence), row("citation", result.model.citation), row("timing", times), row("rules", tables), row("id", job.id));
}
