// The list of labels: eye, colour, opacity, solo, size.

import { el, icon, put } from "./dom.js";
import { number, sizeOf } from "./format.js";
import { t } from "./texts.js";

/**
 * Returns the list.
 * @param {object[]} labels Of the result.
 * @param {Map} look Label value -> `{visible, colour, opacity}`; changed here.
 * @param {function} onChange Called after every change.
 */
export function labelList(labels, look, onChange) {
  let solo = null;
  const rows = labels.map((label) => row(label));
  const all = el("input", { type: "range", id: "opacity-all", min: 0, max: 1, step: 0.05, value: 0.5, on: { input: () => {
    for (const one of look.values()) one.opacity = Number(all.value);
    refresh();
  } } });
  const buttons = el("div.row", {},
    el("button.quiet", { type: "button", text: t("showAll"), on: { click: () => set(() => true) } }),
    el("button.quiet", { type: "button", text: t("hideAll"), on: { click: () => set(() => false) } }),
    el("span.space"), el("label.small", { for: "opacity-all", text: t("opacity") }), all);

  function row(label) {
    const one = look.get(label.value);
    const { value, unit } = sizeOf(label);
    const eye = el("button.quiet.square", { type: "button", on: { click: () => {
      one.visible = !one.visible;
      solo = null;
      refresh();
    } } });
    const colour = el("input", { type: "color", value: one.colour.toLowerCase(), "aria-label": t("colourOf", { name: label.name }), on: { input: () => {
      one.colour = colour.value;
      refresh();
    } } });
    const opacity = el("input", { type: "range", min: 0, max: 1, step: 0.05, value: one.opacity, "aria-label": t("opacityOf", { name: label.name }), title: t("opacity"), on: { input: () => {
      one.opacity = Number(opacity.value);
      refresh();
    } } });
    const alone = el("button.quiet", { type: "button", text: t("solo"), "aria-label": t("soloOf", { name: label.name }), on: { click: () => {
      solo = solo === label.value ? null : label.value;
      set((other) => solo === null || other === solo, true);
    } } });
    const node = el("li.label", { "data-value": label.value }, eye, colour,
      el("span.name", { text: label.name, title: label.name }), el("span.num", { text: label.voxels ? `${number(value)} ${unit}` : t("absent") }), opacity, alone);
    return { label, node, eye, opacity, alone };
  }

  function set(visible, keep = false) {
    if (!keep) solo = null;
    for (const [value, one] of look) one.visible = visible(value);
    refresh();
  }

  function paint() {
    for (const { label, node, eye, opacity, alone } of rows) {
      const one = look.get(label.value);
      put(eye, icon(one.visible ? "eye" : "hidden"));
      eye.setAttribute("aria-pressed", String(one.visible));
      eye.setAttribute("aria-label", t(one.visible ? "hideLabel" : "showLabel", { name: label.name }));
      alone.setAttribute("aria-pressed", String(solo === label.value));
      opacity.value = String(one.opacity);
      node.classList.toggle("off", !one.visible);
    }
  }

  function refresh() {
    paint();
    onChange();
  }

  paint();
  return el("div", {}, buttons, el("ul.labels", {}, rows.map(({ node }) => node)));
}
