// Which models there are, as a group of radio buttons, and the card of each.

import { get } from "./api.js";
import { el, put } from "./dom.js";
import { number, span } from "./format.js";
import { problemBox } from "./problem.js";
import { t } from "./texts.js";

/** Returns the choice of a model. */
export function modelCards(models, onChange, signal) {
  const group = el("div.models", { role: "radiogroup", "aria-labelledby": "model-title" });
  models.forEach((model, index) => {
    const radio = el("input", { type: "radio", name: "model", value: model.id, id: `model-${model.id}`, checked: index === 0,
      on: { change: () => onChange(model) } });
    const scores = Object.values(model.validation);
    const mean = scores.length ? scores.reduce((sum, value) => sum + value, 0) / scores.length : null;
    const state = el("span.state", { text: t(`model_${model.state}`), "data-state": model.state });
    group.append(el("div.model", {}, radio,
      el("label", { for: `model-${model.id}` },
        el("span.row", {}, el("strong", { text: model.id }), state),
        el("span.title", { text: model.name }),
        el("span.facts", {},
          t("modelFacts", { dims: model.spatial_dims, channels: model.channels.join(" + "), network: model.network }),
          mean === null ? null : ` \u00b7 ${t("modelDice", { dice: number(mean, 2), n: model.validation_cases })}`,
          model.seconds_per_case === null ? null : ` \u00b7 ${t("modelTime", { time: span(model.seconds_per_case) })}`),
        el("span.chips", {}, model.labels.slice(0, 8).map((label) => labelChip(label)),
          model.labels.length > 8 ? el("span.chip", { text: t("more", { n: model.labels.length - 8 }) }) : null)),
      el("button.quiet", { type: "button", text: t("card"), "aria-label": t("cardOf", { model: model.id }), on: { click: () => showCard(model.id, signal) } })));
    watchState(model, state, signal);
  });
  return group;
}

/** Keeps asking while a model is loaded, so that the card tells when it is ready. */
async function watchState(model, node, signal) {
  while (model.state !== "ready") {
    await new Promise((resolve) => setTimeout(resolve, 2000));
    if (signal.aborted) return;
    model.state = await get(`models/${model.id}`, signal).then((found) => found.state, () => model.state);
    node.textContent = t(`model_${model.state}`);
    node.dataset.state = model.state;
  }
}

/** Returns a label's colour and name. */
export function labelChip(label) {
  const dot = el("span.dot");
  dot.style.backgroundColor = label.colour;
  return el("span.chip", {}, dot, label.name);
}

/** Shows a model card in a dialog. */
async function showCard(id, signal) {
  const body = el("div.cardbody", {}, el("p", { text: t("loading") }));
  const dialog = el("dialog.broad", { "aria-labelledby": "card-title" }, body,
    el("form.row.end", { method: "dialog" }, el("button", { type: "submit", text: t("close"), autofocus: true })));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  try {
    put(body, ...cardParts(await get(`models/${id}/card`, signal)));
  } catch (error) {
    put(body, problemBox(error));
  }
}

function cardParts(card) {
  const range = card.training_range;
  const row = (name, value) => (value ? [el("dt", { text: name }), el("dd", {}, value)] : []);
  const table = el("table", {},
    el("thead", {}, el("tr", {}, ["label", "validationDice", "trainingSizes", "trainingCases"].map((key) => el("th", { scope: "col", text: t(key) })))),
    el("tbody", {}, card.labels.map((label) => {
      const known = range.labels[String(label.value)];
      return el("tr", {},
        el("th", { scope: "row" }, labelChip(label)),
        el("td.num", { text: number(card.validation[label.name], 2) }),
        el("td.num", { text: known ? `${number(known.low)} - ${number(known.high)} ${range.unit}` : "-" }),
        el("td.num", { text: known ? String(known.cases) : "-" }));
    })));
  const spacing = range.spacing_mm;
  return [
    el("h2", { id: "card-title", text: card.name }),
    el("p.warn", { text: card.disclaimer }),
    el("dl.facts", {},
      row(t("intended"), card.intended_use), row(t("notFor"), card.not_for),
      row(t("limits"), el("ul", {}, card.limits.map((text) => el("li", { text })))),
      row(t("network"), `${card.network}, ${card.spatial_dims}D, ${t("folds", { n: card.folds })}`),
      row(t("channels"), card.channels.join(", ")), row(t("modality"), card.modality),
      row(t("spacing"), spacing && rangeText(spacing)),
      row(t("licence"), card.licence), row(t("citation"), card.citation),
      row(t("device"), card.device), row(t("weights"), el("code.wrap", { text: card.sha256.join(" ") }))),
    el("h3", { text: t("labels") }), el("div.scroll", {}, table),
    el("p.small", { text: t("validationNote", { n: card.validation_cases }) }),
  ];
}

function rangeText({ low, high }) {
  const text = (sizes) => sizes.map((size) => number(size)).join(" \u00d7 ");
  return text(low) === text(high) ? `${text(low)} mm` : t("rangeMm", { low: text(low), high: text(high) });
}
