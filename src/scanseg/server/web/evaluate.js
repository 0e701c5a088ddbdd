// The page that measures a mask against a reference: the form, and then the job and its numbers.

import { get, send, upload } from "./api.js";
import { announce, el, icon, put } from "./dom.js";
import { showEvaluation } from "./evaluation.js";
import { acceptDrops } from "./files.js";
import { size, when } from "./format.js";
import { problemBox } from "./problem.js";
import { t } from "./texts.js";
import { newKey } from "./uploads.js";

/** Shows the form, with a prediction chosen where the address names one, or an evaluation. */
export async function show({ root, id, signal, version }) {
  if (id.startsWith("e_")) await showEvaluation(root, id, signal);
  else await showForm(root, id, signal, version);
}

async function showForm(root, id, signal, version) {
  const [{ models }, { predictions }] = await Promise.all([get("models", signal), get("predictions?limit=200", signal)]);
  const finished = predictions.filter((job) => job.state === "done");
  if (id && !finished.some((job) => job.id === id)) finished.unshift(await get(`predictions/${id}`, signal));
  const state = { reference: null, mask: null };
  const said = el("div");
  const source = el("select", { id: "evaluate-source", on: { change: () => draw() } },
    finished.length > 0 && el("optgroup", { label: t("evaluatePrediction") }, finished.map((job) =>
      el("option", { value: job.id, text: `${job.name || job.id} \u00b7 ${job.model} \u00b7 ${when(job.created)}` }))),
    el("optgroup", { label: t("evaluateOwn") }, models.map((model) =>
      el("option", { value: `model:${model.id}`, text: t("evaluateLabels", { model: model.name }) }))));
  if (id) source.value = id;
  const place = (key, text) => filePlace(`evaluate-${key}`, text, version, (file, problem) => {
    state[key] = file;
    put(said, problem);
    draw();
  });
  const reference = place("reference", t("dropReference"));
  const mask = place("mask", t("dropMask"));
  const go = el("button.primary.wide", { type: "submit", id: "evaluate-run", text: t("evaluateRun") });
  const bar = el("progress.hidden", { max: "1", "aria-label": t("progress") });
  const form = el("form.card.evaluate", { "aria-labelledby": "evaluate-title" },
    el("h1", { id: "evaluate-title", text: t("evaluateTitle") }), el("p.small", { text: t("evaluateText") }),
    el("label", { for: "evaluate-source", text: t("evaluateSource") }), source, reference.node, mask.node, said, go, bar);

  function draw() {
    const own = source.value.startsWith("model:");
    mask.node.hidden = !own;
    go.disabled = !state.reference || (own && !state.mask);
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (go.disabled) return;
    go.disabled = true;
    put(said);
    try {
      location.hash = `#/evaluate/${await order(source.value, state, bar, signal)}`;
    } catch (error) {
      if (error.name === "AbortError") return;
      put(said, problemBox(error));
      bar.classList.add("hidden");
      draw();
    }
  });
  draw();
  put(root, form);
}

/** Orders an evaluation and sends its files; returns its id. */
async function order(source, { reference, mask }, bar, signal) {
  const own = source.startsWith("model:");
  const files = own ? { reference, mask } : { reference };
  const names = Object.fromEntries(Object.entries(files).map(([slot, file]) => [slot, { name: file.name }]));
  const what = own ? { model: source.slice("model:".length) } : { prediction: source };
  const made = await send("POST", "evaluations", { ...what, ...names }, { "Idempotency-Key": newKey() });
  const total = Object.values(files).reduce((sum, file) => sum + file.size, 0) || 1;
  let before = 0;
  bar.classList.remove("hidden");
  for (const { slot, href } of made.inputs) {
    await upload(href, files[slot], (loaded) => { bar.value = (before + loaded) / total; }, signal);
    before += files[slot].size;
  }
  return made.id;
}

/**
 * Returns a place for one file, dropped or chosen: `{node}`.
 * @param {function} onFile Called with the file, or with null and a box that says why it was refused.
 */
function filePlace(id, text, version, onFile) {
  const chosen = el("p", { role: "status" });
  const take = (file) => {
    if (!file) return;
    const most = version.limits.upload_bytes;
    const refused = file.size === 0 ? t("refusedEmpty", { name: file.name })
      : file.size > most ? t("refusedSize", { name: file.name, size: size(file.size) }) : null;
    chosen.textContent = refused ? "" : `${file.name} \u00b7 ${size(file.size)}`;
    onFile(refused ? null : file, refused && problemBox({ code: "E-PAGE-FILE", detail: refused, hint: t("refusedHint") }));
    if (!refused) announce(chosen.textContent);
  };
  const field = el("input.hidden", { type: "file", id, on: { change: () => {
    take(field.files[0]);
    field.value = "";
  } } });
  const zone = el("div.drop.one", { role: "group", "aria-label": text, "data-place": id },
    el("p.big", {}, icon("upload"), text), el("label.button", {}, field, t("chooseFile")), chosen);
  acceptDrops(zone, (files) => take(files[0]));
  return { node: zone };
}
