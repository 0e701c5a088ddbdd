// Three presets and, folded away, every option of `scanseg predict`.

import { el } from "./dom.js";
import { t } from "./texts.js";

const PRESETS = {
  fast: { tta: false, step_size: 0.75, uncertainty: false },
  balanced: { tta: false, step_size: 0.5, uncertainty: true },
  best: { tta: true, step_size: 0.5, uncertainty: true },
};

/**
 * Returns the form: its node and `setModel`.
 * @param {object} state Gets the options that hold at the start.
 * @param {function} onChange Called with the options.
 */
export function optionsForm(state, onChange) {
  const check = (key) => el("input", { type: "checkbox", id: `option-${key}`, on: { change: () => changed() } });
  const fields = {
    tta: check("tta"), uncertainty: check("uncertainty"), probabilities: check("probabilities"),
    step_size: el("input", { type: "range", id: "option-step_size", min: 0.1, max: 1, step: 0.05, on: { input: () => changed() } }),
    nan_fill: el("input", { type: "number", id: "option-nan_fill", step: "any", placeholder: t("refuse"), on: { input: () => changed() } }),
    spacing: el("input", { type: "text", id: "option-spacing", placeholder: t("fromFile"), inputmode: "decimal", on: { input: () => changed() } }),
  };
  const step = el("output", { for: "option-step_size" });
  const radios = {};
  const presets = el("div.presets", { role: "radiogroup", "aria-labelledby": "options-title" }, Object.keys(PRESETS).map((name) => {
    radios[name] = el("input", { type: "radio", name: "preset", value: name, id: `preset-${name}`, on: { change: () => apply(name) } });
    return el("div.preset", {}, radios[name], el("label", { for: `preset-${name}` }, el("strong", { text: t(`preset_${name}`) }), el("span.small", { text: t(`preset_${name}_text`) })));
  }));

  function apply(name) {
    for (const [key, value] of Object.entries(PRESETS[name])) {
      if (typeof value === "boolean") fields[key].checked = value;
      else fields[key].value = String(value);
    }
    changed();
  }

  function read() {
    const chosen = {
      tta: fields.tta.checked, uncertainty: fields.uncertainty.checked, probabilities: fields.probabilities.checked,
      step_size: Number(fields.step_size.value), nan_fill: fields.nan_fill.value === "" ? null : Number(fields.nan_fill.value), spacing: null,
    };
    const parts = fields.spacing.value.trim() ? fields.spacing.value.split(/[ ,;x]+/).filter(Boolean).map(Number) : null;
    const valid = parts === null || (parts.length === state.model.spatial_dims && parts.every((part) => part > 0));
    fields.spacing.setCustomValidity(valid ? "" : t("spacingWrong", { n: state.model.spatial_dims }));
    fields.spacing.setAttribute("aria-invalid", String(!valid));
    spacingSaid.textContent = valid ? "" : t("spacingWrong", { n: state.model.spatial_dims });
    if (valid) chosen.spacing = parts;
    return chosen;
  }

  function changed() {
    const chosen = read();
    step.textContent = String(chosen.step_size);
    for (const [name, preset] of Object.entries(PRESETS)) {
      radios[name].checked = Object.entries(preset).every(([key, value]) => chosen[key] === value);
    }
    onChange(chosen);
  }

  const line = (key, ...after) => el("div.field", {}, el("label", { for: `option-${key}`, text: t(`option_${key}`) }), fields[key], ...after,
    el("p.small", { text: t(`option_${key}_text`) }));
  const spacingSaid = el("span.error", { role: "status" });
  const node = el("div", {}, presets, el("details.fold", {}, el("summary", { text: t("advanced") }),
    line("step_size", step), line("tta"), line("uncertainty"), line("probabilities"), line("nan_fill"), line("spacing", spacingSaid)));
  const first = PRESETS.balanced;
  fields.tta.checked = first.tta;
  fields.uncertainty.checked = first.uncertainty;
  fields.step_size.value = String(first.step_size);
  radios.balanced.checked = true;
  state.options = read();
  step.textContent = String(first.step_size);
  return { node, setModel: () => changed() };
}
