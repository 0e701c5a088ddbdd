// How a failure looks: its code, one sentence, and what to do.

import { Problem } from "./api.js";
import { el } from "./dom.js";
import { t } from "./texts.js";

/** Returns any error as code, detail and hint. */
export function described(error) {
  if (error instanceof Problem || (error && error.code && error.detail)) return error;
  console.error(error);
  return { code: "E-PAGE-FAULT", detail: t("fault"), hint: t("faultHint") };
}

/**
 * Returns the box that shows an error.
 * @param {object} error `Problem`, problem document, or any exception.
 * @param {object} [options] `again`: called by the button for another try.
 */
export function problemBox(error, { again } = {}) {
  const found = described(error);
  return el(
    "div.problem", { role: "alert" },
    el("p.code", { text: found.code }),
    el("p.detail", { text: found.detail }),
    found.hint ? el("p.hint", { text: found.hint }) : null,
    again ? el("button", { type: "button", text: t("again"), on: { click: again } }) : null,
  );
}
