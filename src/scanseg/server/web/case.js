// One prediction: first its job, then what it found.

import { get, send } from "./api.js";
import { announce, ask, el, icon, put } from "./dom.js";
import { downloads } from "./downloads.js";
import { details, information, insightList, measureTable, nextSteps } from "./findings.js";
import { when } from "./format.js";
import { ended, FINAL, follow } from "./job.js";
import { labelList } from "./labels.js";
import { problemBox } from "./problem.js";
import { isFree, reviewBar } from "./review.js";
import { snippetBox } from "./snippets.js";
import { t } from "./texts.js";
import { stopUpload } from "./uploads.js";
import { firstLook, makeViewer } from "./viewer.js";

/** Shows the page. */
export async function show({ root, id, signal, version, fail }) {
  const head = el("div.casehead.row.spread");
  const body = el("div");
  put(root, head, body);
  let job = await get(`predictions/${id}`, signal);
  const said = el("div");
  put(head, headline(job, said), said);
  neighbours(head, job, signal).catch(fail);
  if (!FINAL.includes(job.state)) job = await follow(body, job, signal);
  if (signal.aborted) return;
  announce(t(`state_${job.state}`));
  if (job.state !== "done") {
    put(body, ended(job));
    return;
  }
  const result = await get(`predictions/${id}/result`, signal);
  drawResult(body, job, result, version, signal);
}

function headline(job, said) {
  const remove = el("button.quiet", { type: "button", id: "delete", text: t("remove"), on: { click: async () => {
    if (!(await ask(t("deleteQuestion", { name: job.name || job.id }), t("deleteYes"), t("cancelNo")))) return;
    try {
      stopUpload(job.id);
      await send("DELETE", `predictions/${job.id}`);
      announce(t("deleted"));
      location.hash = "#/history";
    } catch (error) {
      put(said, problemBox(error));
    }
  } } });
  return el("div.row.title", {}, el("h1", { text: job.name || job.id }), el("span.small", { text: `${job.model} \u00b7 ${when(job.created)}` }), remove);
}

/** Adds links to the cases before and after, which the arrow keys follow. */
async function neighbours(head, job, signal) {
  const { predictions } = await get("predictions?limit=200", signal);
  const cases = predictions.filter((one) => one.state === "done" || one.id === job.id).reverse();
  const at = cases.findIndex((one) => one.id === job.id);
  if (at < 0 || signal.aborted) return;
  const link = (other, name, text) => other
    ? el("a.button.quiet.square", { href: `#/cases/${other.id}`, "aria-label": text, title: text, "data-to": name }, icon(name))
    : el("span.button.quiet.square.off", { "aria-hidden": "true" }, icon(name));
  const [before, after] = [cases[at - 1], cases[at + 1]];
  head.append(el("nav.row", { "aria-label": t("casesNav") }, link(before, "left", t("previousCase")),
    el("span.num.small", { text: t("caseOf", { n: at + 1, all: cases.length }) }), link(after, "right", t("nextCase"))));
  document.addEventListener("keydown", (event) => {
    const other = { ArrowLeft: before, ArrowRight: after }[event.key];
    if (!other || !isFree(event) || event.target.closest?.("canvas, [role=tablist], [role=radiogroup], input")) return;
    event.preventDefault();
    location.hash = `#/cases/${other.id}`;
  }, { signal });
}

function drawResult(body, job, result, version, signal) {
  const look = firstLook(result);
  const viewer = makeViewer(job, result, look, signal);
  signal.addEventListener("abort", () => viewer.destroy());
  const snippet = snippetBox(() => [`predictions/${job.id}/snippets`, {}], signal);
  const card = (title, node, open = null) => node && (open === null
    ? el("section.card", {}, el("h2", { text: t(title) }), node)
    : el("details.card", { open }, el("summary", {}, el("h2", { text: t(title) })), node));
  const repeat = card("same", snippet.node, false);
  repeat.addEventListener("toggle", () => repeat.open && snippet.update());
  put(body, el("div.result", {},
    el("div.stack.left", {}, viewer.node, reviewBar(job, signal),
      el("section.card", {}, el("h2", { text: t("measures") }), measureTable(result), insightList(result),
        el("p.more", {}, el("a.button", { href: `#/evaluate/${job.id}`, id: "to-evaluate", text: t("toEvaluate") })))),
    el("aside.stack.right", { "aria-label": t("findings") },
      quality(result),
      card("labels", labelList(result.labels, look.labels, () => viewer.changed())),
      card("nextSteps", nextSteps(result, (mm) => viewer.goTo(mm))),
      card("information", information(result), true),
      card("downloads", downloads(job, result, version, signal), true),
      repeat,
      card("details", details(job, result), false))));
}

function quality(result) {
  const flagged = result.quality.status === "review";
  const count = result.next_steps.filter((step) => step.review).length;
  return el("p.quality", { "data-status": result.quality.status, text: flagged ? t(count === 1 ? "qualityReviewOne" : "qualityReview", { n: count }) : t("qualityOk") });
}
