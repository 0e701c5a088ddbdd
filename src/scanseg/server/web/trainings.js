// Trainings that the server watches: a list, and one of them with its curves, live.

import { get, pause, send, stream } from "./api.js";
import { curves } from "./curves.js";
import { announce, ask, el, put } from "./dom.js";
import { number, size, span, when } from "./format.js";
import { problemBox } from "./problem.js";
import { samples } from "./samples.js";
import { t } from "./texts.js";

const STATES = { waiting: "trainingWaiting", running: "trainingRunning", finished: "trainingFinished", stopped: "trainingStopped", failed: "trainingFailed" };
// As jobs are coloured.
const COLOURS = { waiting: "waiting", running: "running", finished: "done", stopped: "cancelled", failed: "failed" };
const FINAL = ["finished", "stopped", "failed"];
const RECIPE = {
  network: "recipeNetwork", loss: "recipeLoss", optimizer: "recipeOptimizer", learning_rate: "recipeLearningRate", schedule: "recipeSchedule",
  batch_size: "recipeBatchSize", patch_size: "recipePatchSize", iterations_per_epoch: "recipeIterationsPerEpoch", minutes: "recipeMinutes",
  early_stop: "recipeEarlyStop", precision: "recipePrecision", sam_rho: "recipeSamRho", seed: "recipeSeed",
};
const MOST_ROWS = 500;
const MOST_LABELS = 6;

/** Shows the page: one training, or the list of all. A single one is shown at once. */
export async function show({ root, id, signal }) {
  const { trainings, stop_allowed: mayStop } = await get("trainings", signal);
  const chosen = id || (trainings.length === 1 ? trainings[0].id : "all");
  if (chosen === "all") return list(root, trainings, signal);
  return detail(root, await get(`trainings/${encodeURIComponent(chosen)}`, signal), mayStop, signal);
}

function nameOf(training) {
  return training.fold === null ? training.name : t("trainingFold", { name: training.name, fold: training.fold });
}

function stateOf(training) {
  return el("span.state", { "data-state": COLOURS[training.state], "data-training": training.state, text: t(training.stopping ? "trainingStopping" : STATES[training.state]) });
}

function epochText(training) {
  return training.epochs === null ? String(training.epoch) : t("trainingOf", { n: training.epoch, all: training.epochs });
}

// -- list --------------------

async function list(root, first, signal) {
  const body = el("tbody");
  const empty = el("p.empty", { text: t("trainingsEmpty") });
  put(root, el("section.card", { "aria-labelledby": "trainings-title" },
    el("h1", { id: "trainings-title", text: t("trainingsTitle") }),
    el("div.scroll", {}, el("table.trainings", {},
      el("thead", {}, el("tr", {}, ["trainingRun", "state", "trainingEpoch", "trainingDice", "trainingLeft", "trainingUpdated"].map((key) => el("th", { scope: "col", text: t(key) })))),
      body)), empty));
  for (let trainings = first; ; ) {
    // Redrawing takes the focus from a link that is used.
    if (!document.activeElement?.closest(".trainings")) put(body, trainings.map(row));
    empty.hidden = trainings.length > 0;
    await pause(4000, signal).catch(() => {});
    if (signal.aborted) return;
    trainings = (await get("trainings", signal).catch((error) => {
      if (error.status) throw error;
      // The server may be back next time.
      return { trainings };
    })).trainings;
  }
}

function row(training) {
  return el("tr", {},
    el("th", { scope: "row" }, el("a", { href: `#/trainings/${training.id}`, text: nameOf(training) })),
    el("td", {}, stateOf(training)),
    el("td.num", { text: epochText(training) }),
    el("td.num", { text: number(training.last?.pseudo_dice) }),
    el("td.num", { text: span(training.eta_s) || "-" }),
    el("td.num", { text: when(training.updated) }));
}

// -- one training --------------------

async function detail(root, first, mayStop, signal) {
  const view = { training: first, records: [], chosen: null, rows: -1 };
  const parts = {
    state: el("span"), bar: el("progress", { max: "1", "aria-label": t("progress") }), eta: el("span.num.small"), said: el("div"),
    facts: el("dl.facts"), recipe: el("dl.facts"), told: el("dl.readout"), body: el("tbody"),
  };
  parts.slider = el("input", { type: "range", id: "epoch", min: "1", max: "1", step: "1", on: { input: () => choose(Number(parts.slider.value)) } });
  parts.stop = el("button.danger", { type: "button", id: "stop", text: t("trainingStop"), on: { click: () => stop(view, parts, signal) } });
  parts.table = el("details.card.epochs", { on: { toggle: () => fillTable(view, parts) } }, el("summary", {}, el("h2", { text: t("trainingTable") })),
    el("div.scroll", {}, el("table", {}, el("thead", {}, el("tr", {},
      ["trainingEpoch", "trainingLoss", "validationLoss", "trainingDice", "movingDice", "learningRate", "epochTime"].map((key) => el("th", { scope: "col", text: t(key) })))), parts.body)));
  const choose = (epoch) => {
    view.chosen = epoch === view.records.at(-1)?.epoch ? null : epoch;
    draw();
  };
  const charts = [
    curves({ id: "chart-loss", title: t("loss"), range: null, lines: lossLines }, choose),
    curves({ id: "chart-dice", title: t("trainingDice"), range: [0, 1], lines: diceLines }, choose),
    curves({ id: "chart-rate", title: t("learningRate"), range: null, lines: () => [{ name: t("learningRate"), kind: "first", value: (record) => record.learning_rate }] }, choose),
  ];
  const patches = samples(signal);
  const draw = () => {
    const last = view.records.at(-1)?.epoch ?? 1;
    const chosen = view.chosen ?? last;
    Object.assign(parts.slider, { min: String(view.records[0]?.epoch ?? 1), max: String(last), value: String(chosen), disabled: view.records.length < 2 });
    for (const chart of charts) chart.draw(view.records, chosen);
    tell(view.records.findLast((record) => record.epoch <= chosen), parts);
  };
  const paint = (found) => {
    view.training = found;
    view.records = [...view.records.filter((record) => record.epoch <= found.metrics_after), ...found.metrics];
    head(found, parts, mayStop);
    draw();
    patches.update(found);
    fillTable(view, parts);
  };
  put(root, el("div.stack", {},
    el("p", {}, el("a", { href: "#/trainings/all", text: t("trainingsAll") })),
    el("section.card.training", { "aria-labelledby": "training-title" },
      el("div.row.spread", {}, el("h1.wrap", { id: "training-title", text: nameOf(first) }), parts.stop),
      el("div.row", {}, parts.state, parts.bar, parts.eta), parts.said, parts.facts),
    el("section.card", { "aria-label": t("trainingCurves") }, el("div.charts", {}, charts.map((chart) => chart.node)),
      el("div.row.pick", {}, el("label", { for: "epoch", text: t("trainingEpoch") }), parts.slider, parts.told)),
    patches.node,
    parts.table,
    el("section.card", { "aria-labelledby": "recipe-title" }, el("h2", { id: "recipe-title", text: t("recipe") }), parts.recipe)));
  recipeOf(first, parts);
  paint(first);
  const sizes = new ResizeObserver(() => draw());
  sizes.observe(charts[0].node);
  signal.addEventListener("abort", () => sizes.disconnect());
  await follow(first, paint, parts, signal);
}

/** Keeps painting what the server sends, also after a broken connection, and when a stopped training goes on. */
async function follow(first, paint, parts, signal) {
  let last = first;
  for (;;) {
    try {
      if (FINAL.includes(last.state)) {
        await pause(6000, signal);
        last = await get(`trainings/${last.id}?after=${last.epoch}`, signal);
        paint(last);
      } else {
        for await (const found of stream(`trainings/${last.id}/events`, signal)) paint((last = found));
        if (!FINAL.includes(last.state)) await pause(1000, signal);
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      if ([401, 403, 404].includes(error.status)) throw error;
      parts.eta.textContent = t("reconnecting");
      await pause(3000, signal).catch(() => {});
      if (signal.aborted) return;
    }
  }
}

function head(training, parts, mayStop) {
  const before = parts.state.textContent;
  put(parts.state, stateOf(training));
  const after = parts.state.textContent;
  if (after !== before) announce(after);
  if (training.epochs) parts.bar.value = Math.min(1, training.epoch / training.epochs);
  else if (training.state === "running") parts.bar.removeAttribute("value");
  else parts.bar.value = training.state === "finished" ? 1 : 0;
  parts.eta.textContent = training.eta_s === null ? "" : t("left_s", { time: span(training.eta_s) });
  parts.stop.hidden = !mayStop || training.state !== "running";
  parts.stop.disabled = training.stopping;
  put(parts.said, training.problems.map((problem) => problemBox(problem)));
  const best = training.best;
  rows(parts.facts, [
    [t("trainingEpoch"), epochText(training)],
    [t("trainingEpochsLeft"), training.epochs_left],
    [t("trainingSteps"), training.steps === null ? training.step : t("trainingOf", { n: training.step, all: training.steps })],
    [t("trainingEnd"), training.expected_end && when(training.expected_end)],
    [t("epochTime"), span(training.epoch_s)],
    [t("trainingElapsed"), span(training.elapsed_s)],
    [t("learningRate"), training.last && number(training.last.learning_rate)],
    [t("trainingBest"), best && t("trainingBestText", { dice: number(best.ema_pseudo_dice ?? best.pseudo_dice), epoch: best.epoch })],
    [t(training.memory?.kind === "gpu" ? "trainingMemoryGpu" : "trainingMemory"), memoryText(training.memory)],
    [t("trainingStarted"), training.started && when(training.started)],
    [t("trainingEnded"), training.ended && when(training.ended)],
  ]);
}

function memoryText(memory) {
  if (!memory) return null;
  const words = { peak: size(memory.peak_bytes), total: memory.total_bytes && size(memory.total_bytes) };
  return t(words.total ? "trainingMemoryOf" : "trainingMemoryText", words);
}

function recipeOf(training, parts) {
  const value = (found) => (Array.isArray(found) ? found.join(" \u00d7 ") : typeof found === "number" ? number(found) : found);
  rows(parts.recipe, [
    [t("dataset"), training.dataset], [t("labels"), training.labels.join(", ")],
    ...Object.entries(RECIPE).filter(([name]) => name in training.recipe).map(([name, text]) => [t(text), value(training.recipe[name])]),
  ]);
}

function rows(list, pairs) {
  put(list, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .flatMap(([name, value]) => [el("dt", { text: name }), el("dd.num", { text: String(value) })]));
}

/** Writes the numbers of the chosen epoch. */
function tell(record, parts) {
  rows(parts.told, record ? [
    [t("trainingEpoch"), record.epoch], [t("trainingLoss"), number(record.train_loss)], [t("validationLoss"), number(record.validation_loss)],
    [t("trainingDice"), number(record.pseudo_dice)], [t("learningRate"), number(record.learning_rate)],
  ] : []);
  parts.slider.setAttribute("aria-valuetext", record ? t("epochSaid", { epoch: record.epoch, loss: number(record.train_loss), dice: number(record.pseudo_dice) }) : t("curveEmpty"));
}

function fillTable(view, parts) {
  const last = view.records.at(-1)?.epoch ?? 0;
  if (!parts.table.open || view.rows === last) return;
  view.rows = last;
  put(parts.body, view.records.slice(-MOST_ROWS).reverse().map((record) => el("tr", {},
    el("th.num", { scope: "row", text: String(record.epoch) }),
    [record.train_loss, record.validation_loss, record.pseudo_dice, record.ema_pseudo_dice, record.learning_rate].map((value) => el("td.num", { text: number(value) })),
    el("td.num", { text: span(record.seconds) || "-" }))));
}

function lossLines(records) {
  const auxiliary = records.some((record) => record.auxiliary_loss !== null);
  return [
    { name: t("curveTraining"), kind: "first", value: (record) => record.train_loss },
    { name: t("curveValidation"), kind: "second", value: (record) => record.validation_loss },
    ...(auxiliary ? [{ name: t("curveAuxiliary"), kind: "third", value: (record) => record.auxiliary_loss }] : []),
  ];
}

function diceLines(records) {
  const labels = Object.keys(records.at(-1)?.pseudo_dice_per_label ?? {});
  const each = labels.length > 1 ? labels.slice(0, MOST_LABELS) : [];
  return [
    { name: t("curveMean"), kind: "first", value: (record) => record.pseudo_dice },
    { name: t("curveMoving"), kind: "second", value: (record) => record.ema_pseudo_dice },
    ...each.map((label, index) => ({ name: label, kind: `label-${index}`, value: (record) => record.pseudo_dice_per_label[label] })),
  ];
}

async function stop(view, parts, signal) {
  if (!(await ask(t("trainingStopQuestion", { name: nameOf(view.training) }), t("trainingStop"), t("trainingStopNo"))) || signal.aborted) return;
  parts.stop.disabled = true;
  try {
    await send("DELETE", `trainings/${view.training.id}`);
    announce(t("trainingStopping"));
  } catch (error) {
    // It may have ended meanwhile; the stream tells.
    parts.stop.disabled = false;
    if (error.code !== "E-TRAIN-IDLE") put(parts.said, problemBox(error));
  }
}
