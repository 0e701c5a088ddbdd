// One evaluation: its job, then every metric of every label and what a metric is worth where a mask is empty.

import { get, Problem, send } from "./api.js";
import { csv } from "./csv.js";
import { announce, ask, el, put, save } from "./dom.js";
import { number } from "./format.js";
import { FINAL } from "./job.js";
import { problemBox } from "./problem.js";
import { t } from "./texts.js";

const WHERE = ["missed", "invented", "both_empty"];

/** Follows an evaluation and shows what it found. */
export async function showEvaluation(root, id, signal) {
  const said = el("div");
  const job = await followed(root, id, said, signal);
  announce(t(`state_${job.state}`));
  if (job.state === "done") {
    const result = await get(`evaluations/${id}/result`, signal);
    put(root, el("div.stack", {}, head(job, said), said, scores(result), rules(result)));
    return;
  }
  const told = job.state === "failed" ? problemBox(new Problem(job.error ?? { code: "E-INTERNAL", detail: t("fault") }))
    : el("p.empty", { text: t(job.state === "waiting" ? "evaluateUnsent" : "cancelledText") });
  put(root, el("div.card", { "data-job-state": job.state }, told,
    el("p.center", {}, el("a.button", { href: "#/evaluate", text: t("evaluateAnother") }))));
}

/** Returns the last state of the job; its files were sent before, so one that still waits for them is left alone. */
async function followed(root, id, said, signal) {
  const state = el("strong");
  const cancel = el("button", { type: "button", id: "cancel", text: t("cancel"), on: { click: async () => {
    cancel.disabled = true;
    try {
      await send("POST", `evaluations/${id}/cancel`);
    } catch (error) {
      // It may have finished meanwhile; the next answer tells.
      if (error.code !== "E-SERVE-STATE") put(said, problemBox(error));
    }
  } } });
  let job = await get(`evaluations/${id}`, signal);
  if (FINAL.includes(job.state)) return job;
  put(root, el("section.jobbar.card", { "aria-label": t("progress") },
    el("div.row", {}, state, el("progress", { "aria-label": t("progress") }), cancel), said));
  while (!FINAL.includes(job.state) && job.state !== "waiting") {
    state.textContent = job.position ? t("queuedAt", { position: job.position }) : t(`state_${job.state}`);
    state.dataset.jobState = job.state;
    announce(state.textContent);
    job = await get(`evaluations/${id}?wait=5`, signal);
  }
  return job;
}

function head(job, said) {
  const remove = el("button.quiet", { type: "button", id: "delete", text: t("remove"), on: { click: async () => {
    if (!(await ask(t("deleteQuestion", { name: job.name }), t("deleteYes"), t("cancelNo")))) return;
    try {
      await send("DELETE", `evaluations/${job.id}`);
      announce(t("deleted"));
      location.hash = "#/evaluate";
    } catch (error) {
      put(said, problemBox(error));
    }
  } } });
  const other = job.inputs.find((one) => one.slot === "mask");
  const mask = job.options.prediction
    ? el("a", { href: `#/cases/${job.options.prediction}`, text: t("evaluatedCase") })
    : el("span.small", { text: t("evaluatedMask", { name: other?.name ?? "" }) });
  return el("div.row.title", {}, el("h1", { text: t("evaluatedAgainst", { name: job.name }) }), mask, remove,
    el("a.button", { href: "#/evaluate", text: t("evaluateAnother") }));
}

// -- numbers --------------------

function scores(result) {
  const metrics = Object.entries(result.summary.metrics);
  const cell = (value) => el("td.num", { text: value === null ? t("notApplicable") : number(value) });
  const title = (fact) => (fact.unit ? `${fact.title} (${fact.unit})` : fact.title);
  const heads = metrics.map(([, fact]) => el("th", { scope: "col", title: fact.summary }, title(fact),
    el("span.small.block", { text: t(fact.better === "higher" ? "betterHigher" : "betterLower") })));
  const rows = result.cases.map((row) => el("tr", { "data-value": row.value },
    el("th", { scope: "row", text: row.name }), el("td", { text: t(`where_${row.state}`) }),
    metrics.map(([key]) => cell(row[key]))));
  const means = el("tr", {}, el("th", { scope: "row", text: t("meanOfLabels") }), el("td"),
    metrics.map(([key]) => cell(result.summary.mean[key].mean)));
  return el("section.card", { "aria-labelledby": "scores-title" }, el("h2", { id: "scores-title", text: t("scores") }),
    el("div.scroll", {}, el("table.scores", {}, el("caption.hidden", { text: t("scores") }),
      el("thead", {}, el("tr", {}, ["label", "whereFound"].map((key) => el("th", { scope: "col", text: t(key) })), heads)),
      el("tbody", {}, rows), result.cases.length > 1 && el("tfoot", {}, means))),
    result.summary.findings.length > 0 && el("ul.said", {}, result.summary.findings.map((one) =>
      el("li", { "data-kind": "check" }, el("p", { text: one.text }), el("p.small.code", { text: one.code })))),
    el("p.small", { text: t("nsdTolerance", { mm: result.summary.nsd_tolerance_mm }) }),
    el("div.row", {}, button("json", t("getEvaluationJson"), () => `${JSON.stringify(result, null, 2)}\n`, `${result.id}.json`),
      button("csv", t("getEvaluationCsv"), () => table(result), `${result.id}_cases.csv`)));
}

function button(kind, text, content, name) {
  const type = kind === "csv" ? "text/csv" : "application/json";
  return el("button", { type: "button", id: `get-${kind}`, text, on: { click: () => {
    save(new Blob([content()], { type }), name);
    announce(t("downloaded", { name: text }));
  } } });
}

/** Returns the rows with the columns of `cases.csv`; not applicable is an empty cell. */
function table(result) {
  const columns = [...new Set(result.cases.flatMap((row) => Object.keys(row)))];
  return csv([columns, ...result.cases.map((row) => columns.map((key) => row[key]))]);
}

/** Returns what each metric is worth where a mask is empty, as the server applied it. */
function rules(result) {
  const rows = Object.values(result.summary.metrics).map((fact) => el("tr", {}, el("th", { scope: "row", text: fact.title }),
    WHERE.map((state) => el("td", { text: t(`empty_${fact.empty[state].replace(" ", "_")}`) })), el("td.small", { text: fact.summary })));
  return el("section.card", { "aria-labelledby": "rules-title" }, el("h2", { id: "rules-title", text: t("emptyRules") }),
    el("p.small", { text: t("emptyRulesText") }),
    el("div.scroll", {}, el("table.plain.rules", {}, el("caption.hidden", { text: t("emptyRules") }),
      el("thead", {}, el("tr", {}, el("th", { scope: "col", text: t("metric") }), WHERE.map((state) => el("th", { scope: "col", text: t(`where_${state}`) })),
        el("th", { scope: "col", text: t("meaning") }))),
      el("tbody", {}, rows))));
}
