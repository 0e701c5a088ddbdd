// What a reader thinks of a mask: A, R, C and the arrows, as fast as keys can be pressed.

import { send } from "./api.js";
import { announce, el, put } from "./dom.js";
import { problemBox } from "./problem.js";
import { t } from "./texts.js";

const VERDICTS = [["accept", "A"], ["reject", "R"], ["unsure", "U"]];

/**
 * Returns the bar.
 * @param {object} job
 * @param {AbortSignal} signal Ends the keys.
 */
export function reviewBar(job, signal) {
  let verdict = job.review?.verdict ?? null;
  const said = el("div");
  const state = el("span.small", { role: "status", text: verdict ? t("reviewed", { verdict: t(`verdict_${verdict}`) }) : t("notReviewed") });
  const comment = el("input", { type: "text", id: "comment", maxlength: 2000, value: job.review?.comment ?? "", placeholder: t("commentHint"), "aria-label": t("comment") });
  const buttons = VERDICTS.map(([name, key]) => el("button.verdict", { type: "button", id: `verdict-${name}`, "data-verdict": name, "aria-keyshortcuts": key, on: { click: () => give(name) } },
    t(`do_${name}`), el("kbd", { text: key })));

  function paint() {
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(VERDICTS[index][0] === verdict)));
  }

  async function give(name) {
    try {
      const found = await send("PUT", `predictions/${job.id}/review`, { verdict: name, comment: comment.value.trim() });
      verdict = found.verdict;
      put(said);
      state.textContent = t("reviewed", { verdict: t(`verdict_${verdict}`) });
      announce(state.textContent);
      paint();
    } catch (error) {
      put(said, problemBox(error));
    }
  }

  document.addEventListener("keydown", (event) => {
    if (!isFree(event)) return;
    const key = event.key.toLowerCase();
    const found = VERDICTS.find(([, letter]) => letter.toLowerCase() === key);
    if (found) give(found[0]);
    else if (key === "c") comment.focus();
    else return;
    event.preventDefault();
  }, { signal });
  // A comment belongs to a verdict: without one it waits.
  comment.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") comment.blur();
  });
  comment.addEventListener("change", () => verdict && give(verdict));
  paint();
  return el("section.review.card", { "aria-label": t("review") }, el("div.row", {}, buttons, comment, el("kbd", { text: "C" })), state, said);
}

/** Tells whether a key is a shortcut and not text, and no dialog is open. */
export function isFree(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return false;
  const on = event.target;
  return !(on instanceof HTMLInputElement && on.type !== "checkbox" && on.type !== "radio") && !(on instanceof HTMLTextAreaElement) && !(on instanceof HTMLSelectElement);
}
