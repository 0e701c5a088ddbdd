// The bar that tells how far a job is, with a button that ends it.

import { get, Problem, send, watch } from "./api.js";
import { announce, el, put } from "./dom.js";
import { span } from "./format.js";
import { problemBox } from "./problem.js";
import { t } from "./texts.js";
import { onUpload, resume, stopUpload, uploadOf } from "./uploads.js";

export const FINAL = ["done", "failed", "cancelled"];

/** Returns the state of a job in a few words. */
export function stateText(job) {
  const upload = job.state === "waiting" ? uploadOf(job.id) : null;
  if (upload) return t("uploading", { percent: Math.round(upload.fraction * 100) });
  if (job.state === "queued" && job.position) return t("queuedAt", { position: job.position });
  if (job.state === "running" && job.progress) return t(`stage_${job.progress.stage}`);
  return t(`state_${job.state}`);
}

function shareOf(job) {
  const upload = job.state === "waiting" ? uploadOf(job.id) : null;
  if (upload) return upload.fraction;
  if (job.state === "running" && job.progress?.stage === "predict") return job.progress.fraction;
  return FINAL.includes(job.state) ? 1 : null;
}

/**
 * Follows a job in a bar until it is final; returns its last state.
 * @param {HTMLElement} host Gets the bar.
 * @param {object} job As known so far.
 * @param {AbortSignal} signal
 */
export async function follow(host, job, signal) {
  let last = job;
  const state = el("strong", { "data-job-state": job.state });
  const bar = el("progress", { max: "1", "aria-label": t("progress") });
  const eta = el("span.num.small");
  const said = el("div");
  let form = null;
  const close = el("p.small", { text: t("canClose") });
  const cancel = el("button", { type: "button", id: "cancel", text: t("cancel"), on: { click: async () => {
    cancel.disabled = true;
    stopUpload(job.id);
    try {
      await send("POST", `predictions/${job.id}/cancel`);
    } catch (error) {
      // It may have finished meanwhile; the stream tells.
      if (error.code !== "E-SERVE-STATE") put(said, problemBox(error));
    }
  } } });
  const paint = () => {
    const text = stateText(last);
    state.textContent = text;
    state.dataset.jobState = last.state;
    const share = shareOf(last);
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
    eta.textContent = last.eta_s ? t("left_s", { time: span(last.eta_s) }) : "";
    close.hidden = last.state === "waiting";
    announce(last.state === "waiting" ? t("state_waiting") : text);
    const upload = uploadOf(job.id);
    const stopped = last.state === "waiting" && (!upload || upload.problem);
    // The form stays while it is the same: it may hold a file that was chosen already.
    if (stopped && (!form || form.problem !== upload?.problem)) {
      form = { problem: upload?.problem, node: again(last, upload?.problem, paint) };
      put(said, form.node);
    } else if (!stopped && form) {
      form = null;
      put(said);
    }
  };
  put(host, el("section.jobbar.card", { "aria-label": t("progress") }, el("div.row", {}, state, bar, eta, cancel), said, close));
  onUpload((id) => id === job.id && paint(), signal);
  paint();
  for await (const found of watch(job.id, signal)) {
    if (found.state === "unreachable") {
      eta.textContent = t("reconnecting");
      continue;
    }
    last = found;
    if (FINAL.includes(found.state)) break;
    paint();
  }
  // Not every stream ends with the final state: a server may stop in between.
  return FINAL.includes(last.state) ? last : get(`predictions/${job.id}`, signal);
}

/** After a reload the files of an unfinished upload are gone: they are asked for again. */
function again(job, problem, paint) {
  const missing = job.inputs.filter((one) => !one.received);
  const fields = missing.map((one) => el("input", { type: "file", "aria-label": one.name }));
  const form = el("form.again", {}, problem ? problemBox(problem) : el("p", { text: t("uploadStopped") }),
    missing.map((one, index) => el("div.field", {}, el("span", { text: one.name }), fields[index])),
    el("button.primary", { type: "submit", text: t("uploadAgain") }));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (fields.some((field) => !field.files.length)) return;
    const pairs = missing.map((one, index) => [one.slot, fields[index].files[0]]);
    resume(job, pairs);
    paint();
  });
  return form;
}

/** Returns what is shown of a job that ended without a result. */
export function ended(job) {
  if (job.state === "cancelled") {
    return el("div.card", {}, el("p.empty", { "data-job-state": "cancelled", text: t("cancelledText") }), el("p.center", {}, el("a.button", { href: "#/", text: t("newTitle") })));
  }
  const error = new Problem(job.error ?? { code: "E-INTERNAL", detail: t("fault") });
  return el("div.card", { "data-job-state": "failed" }, problemBox(error), el("p.center", {}, el("a.button", { href: "#/", text: t("tryOther") })));
}
