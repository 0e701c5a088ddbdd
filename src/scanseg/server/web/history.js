// All own predictions: search, states that renew themselves, delete, the table of reviews.

import { bytes, get, pause, send } from "./api.js";
import { announce, ask, el, icon, put, save } from "./dom.js";
import { when } from "./format.js";
import { problemBox } from "./problem.js";
import { stateText } from "./job.js";
import { t } from "./texts.js";
import { onUpload, stopUpload } from "./uploads.js";

const OPEN = ["waiting", "queued", "running"];

/** Shows the page. */
export async function show({ root, signal }) {
  const state = { jobs: [], next: null, search: "", signal };
  const body = el("tbody");
  const said = el("div");
  const count = el("p.small", { role: "status" });
  const older = el("button", { type: "button", text: t("older"), on: { click: () => more().catch(tell) } });
  const search = el("input", { type: "search", id: "search", placeholder: t("searchHint"), on: { input: () => {
    state.search = search.value.toLowerCase();
    draw();
  } } });
  const tell = (error) => error.name !== "AbortError" && put(said, problemBox(error));
  const draw = () => {
    const rows = state.jobs.filter((job) => matches(job, state.search));
    put(body, rows.map((job) => row(job, state, draw, tell)));
    count.textContent = state.jobs.length ? t("shown", { n: rows.length, all: state.jobs.length }) : t("historyEmpty");
    older.hidden = state.next === null;
  };
  const more = async () => {
    const found = await get(`predictions?limit=100&before=${state.next}`, signal);
    state.jobs.push(...found.predictions);
    state.next = found.next;
    draw();
  };
  const first = await get("predictions?limit=100", signal);
  Object.assign(state, { jobs: first.predictions, next: first.next });
  put(root, el("section.card", { "aria-labelledby": "history-title" },
    el("div.row.spread", {}, el("h1", { id: "history-title", text: t("historyTitle") }),
      el("div.row", {}, el("label.hidden", { for: "search", text: t("search") }), search,
        el("button", { type: "button", text: t("reviewsCsv"), on: { click: () => bytes("reviews.csv", signal).then(({ blob }) => save(blob, "reviews.csv"), tell) } }))),
    said,
    el("div.scroll", {}, el("table.history", {},
      el("thead", {}, el("tr", {}, ["case", "model", "created", "state", "verdict"].map((key) => el("th", { scope: "col", text: t(key) })), el("th", {}, el("span.hidden", { text: t("remove") })))),
      body)),
    el("div.row.spread", {}, count, older)));
  draw();
  onUpload(draw, signal);
  renew(state, draw).catch(tell);
}

/** Asks again while a job is open. Older pages are not asked for again: their jobs are finished. */
async function renew(state, draw) {
  for (;;) {
    await pause(2000, state.signal);
    if (!state.jobs.some((job) => OPEN.includes(job.state))) continue;
    let predictions;
    try {
      ({ predictions } = await get("predictions?limit=100", state.signal));
    } catch (error) {
      if (error.status) throw error;
      // The server may be back next time.
      continue;
    }
    const fresh = new Map(predictions.map((job) => [job.id, job]));
    const known = new Set(state.jobs.map((job) => job.id));
    const before = state.jobs.filter((job) => OPEN.includes(job.state)).length;
    state.jobs = [...predictions.filter((job) => !known.has(job.id)), ...state.jobs.map((job) => fresh.get(job.id) ?? job)];
    const left = state.jobs.filter((job) => OPEN.includes(job.state)).length;
    if (left !== before) announce(t("left", { n: left }));
    // Redrawing takes the focus from a button that is used.
    if (!document.activeElement?.closest(".history")) draw();
  }
}

function matches(job, text) {
  return !text || [job.name, job.model, t(`state_${job.state}`), job.review?.verdict, job.review?.comment, job.id]
    .some((part) => part && part.toLowerCase().includes(text));
}

function row(job, state, draw, tell) {
  const remove = el("button.quiet.square", { type: "button", title: t("remove"), "aria-label": t("deleteCase", { name: job.name || job.id }), on: { click: async () => {
    if (!(await ask(t("deleteQuestion", { name: job.name || job.id }), t("deleteYes"), t("cancelNo")))) return;
    try {
      stopUpload(job.id);
      await send("DELETE", `predictions/${job.id}`);
      state.jobs = state.jobs.filter((other) => other !== job);
      draw();
      announce(t("deleted"));
    } catch (error) {
      tell(error);
    }
  } } }, icon("close"));
  return el("tr", {},
    el("th", { scope: "row" }, el("a", { href: `#/cases/${job.id}`, text: job.name || job.id })),
    el("td", { text: job.model }),
    el("td.num", { text: when(job.created) }),
    el("td", {}, el("span.state", { "data-state": job.state, text: stateText(job) }), job.error ? el("span.small.code", { text: ` ${job.error.code}` }) : null),
    el("td", { text: job.review ? t(`verdict_${job.review.verdict}`) : "-", title: job.review?.comment || null }),
    el("td", {}, remove));
}
