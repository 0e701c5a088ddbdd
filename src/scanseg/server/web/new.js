// The page that orders predictions: images, model, options, and the same in other words.

import { get } from "./api.js";
import { announce, el, icon, put } from "./dom.js";
import { acceptDrops, droppedFiles, endingOf, groupFiles, isComplete } from "./files.js";
import { size } from "./format.js";
import { modelCards } from "./models.js";
import { optionsForm } from "./options.js";
import { problemBox } from "./problem.js";
import { snippetBox } from "./snippets.js";
import { t } from "./texts.js";
import { order } from "./uploads.js";

/** Shows the page. */
export async function show({ root, signal, version, fail }) {
  const { models } = await get("models", signal);
  const state = { version, models, model: models[0], files: [], cases: [], options: {}, signal };
  const parts = {
    files: el("div.cases"),
    samples: el("div.samples"),
    go: el("div.go"),
    said: el("div"),
  };
  const draw = () => drawFiles(state, parts, draw);
  const snippet = snippetBox(() => [`models/${state.model.id}/snippets`, state.options], signal);
  const options = optionsForm(state, (chosen) => {
    state.options = chosen;
    snippet.update();
  });
  const cards = modelCards(models, (model) => {
    state.model = model;
    options.setModel(model);
    state.cases = groupFiles(state.files, model.channels.length, version.formats);
    draw();
    drawSamples(state, parts).catch(fail);
    snippet.update();
  }, signal);
  put(root,
    el("h1.hidden", { text: t("newTitle") }),
    el("div.order", {},
      el("section.card", { "aria-labelledby": "images-title" }, el("h2", { id: "images-title", text: t("images") }),
        dropZone(state, draw), parts.said, parts.files, el("h3", { text: t("samples") }), parts.samples),
      el("div.stack", {},
        el("section.card", { "aria-labelledby": "model-title" }, el("h2", { id: "model-title", text: t("model") }), cards),
        el("section.card", { "aria-labelledby": "options-title" }, el("h2", { id: "options-title", text: t("options") }),
          options.node, parts.go),
      ),
      el("section.card.across", { "aria-labelledby": "same-title" }, el("h2", { id: "same-title", text: t("same") }), snippet.node),
    ));
  draw();
  snippet.update();
  await drawSamples(state, parts);
}

// -- files --------------------

function dropZone(state, draw) {
  const take = (files) => {
    addFiles(state, files);
    draw();
  };
  const input = (props, label) => {
    const field = el("input.hidden", { type: "file", multiple: true, ...props, on: { change: () => {
      take([...field.files]);
      field.value = "";
    } } });
    return el("label.button", {}, field, label);
  };
  const zone = el("div.drop", { role: "group", "aria-label": t("drop") },
    el("p.big", {}, icon("upload"), t("drop")),
    el("div.row.center", {}, input({ id: "choose-files" }, t("chooseFiles")), input({ webkitdirectory: true, id: "choose-folder" }, t("chooseFolder"))),
    el("p.small", { text: t("formats", { list: state.version.formats.join(", "), most: size(state.version.limits.upload_bytes) }) }),
    el("p.small", { text: t("stays") }));
  acceptDrops(zone, take);
  return zone;
}

function addFiles(state, files) {
  const known = new Set(state.files.map((file) => `${file.name}/${file.size}/${file.lastModified}`));
  state.refused = [];
  for (const file of files) {
    const refused = refusal(file, state.version);
    if (refused) state.refused.push(refused);
    else if (!known.has(`${file.name}/${file.size}/${file.lastModified}`)) state.files.push(file);
  }
  state.cases = groupFiles(state.files, state.model.channels.length, state.version.formats);
  announce(t("caseCount", { n: state.cases.length }));
}

/** Returns why a file is not taken, null if it is. */
function refusal(file, version) {
  if (!endingOf(file.name, version.formats)) return t("refusedKind", { name: file.name });
  if (file.size > version.limits.upload_bytes) return t("refusedSize", { name: file.name, size: size(file.size) });
  return file.size === 0 ? t("refusedEmpty", { name: file.name }) : null;
}

function drawFiles(state, parts, draw) {
  const channels = state.model.channels;
  const refused = state.refused ?? [];
  put(parts.said, refused.length ? problemBox({
    code: "E-PAGE-FILE", detail: refused.slice(0, 3).join(" "),
    hint: refused.length > 3 ? t("refusedMore", { n: refused.length - 3 }) : t("refusedHint"),
  }) : null);
  put(parts.files, state.cases.map((one, index) => caseRow(state, one, index, channels, draw)));
  const ready = state.cases.filter(isComplete).length;
  const button = el("button.primary.wide", {
    type: "button", id: "run", disabled: ready === 0,
    text: ready > 1 ? t("runMany", { n: ready }) : t("run"),
    on: { click: () => run(state, parts, draw, button) },
  });
  put(parts.go, button, el("p.small", { text: ready ? t("runHint", { model: state.model.name }) : t("runEmpty") }));
}

function caseRow(state, one, index, channels, draw) {
  const remove = el("button.quiet.square", { type: "button", "aria-label": t("removeFile", { name: one.name }), title: t("remove"), on: { click: () => {
    const gone = new Set(one.files);
    state.files = state.files.filter((file) => !gone.has(file));
    state.cases.splice(index, 1);
    draw();
  } } }, icon("close"));
  if (channels.length === 1 || one.archive) {
    return el("div.file", {}, el("span.name", { text: one.name, title: one.name }), el("span.num", { text: size(one.files[0].size) }), remove);
  }
  const slots = channels.map((channel, place) => slot(state, one, channel, place, draw));
  return el("fieldset.slots", {}, el("legend", {}, el("span.name", { text: one.name }), remove), slots,
    isComplete(one) ? null : el("p.error", { text: t("incomplete") }));
}

/** A place for a channel: files are dragged here from other places or from a folder, or chosen in the list. */
function slot(state, one, channel, place, draw) {
  const file = one.files[place];
  const move = (from) => {
    [one.files[place], one.files[from]] = [one.files[from], one.files[place]];
    draw();
  };
  const take = (dropped) => {
    if (!dropped) return;
    // An archive holds all channels; it is no single one.
    const archive = endingOf(dropped.name, state.version.formats) === "zip" ? t("refusedKind", { name: dropped.name }) : null;
    const refused = refusal(dropped, state.version) ?? archive;
    state.refused = refused ? [refused] : [];
    if (!refused) {
      state.files = [...state.files.filter((other) => other !== file), dropped];
      one.files[place] = dropped;
    }
    draw();
  };
  const choice = el("select", { "aria-label": t("slotChoice", { channel, name: one.name }), on: { change: () => move(Number(choice.value)) } },
    one.files.map((other, from) => el("option", { value: from, text: other ? other.name : t("noFile") })));
  choice.value = String(place);
  const node = el("div.slot", { draggable: file ? "true" : null }, el("span.channel", { text: channel }), choice);
  node.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/x-slot", `${place}`));
  node.addEventListener("dragover", (event) => event.preventDefault());
  node.addEventListener("drop", async (event) => {
    event.preventDefault();
    event.stopPropagation();
    const from = event.dataTransfer.getData("text/x-slot");
    if (from !== "") move(Number(from));
    else take((await droppedFiles(event.dataTransfer))[0]);
  });
  return node;
}

// -- ordering --------------------

async function run(state, parts, draw, button) {
  button.disabled = true;
  const ready = state.cases.filter(isComplete);
  try {
    for (const one of ready) {
      const made = await order({ model: state.model.id, options: state.options }, one.files);
      state.cases = state.cases.filter((other) => other !== one);
      if (ready.length === 1) {
        location.hash = `#/cases/${made.id}`;
        return;
      }
    }
    location.hash = "#/history";
  } catch (error) {
    // What was ordered before stays ordered; the rest stays in the list.
    draw();
    put(parts.said, problemBox(error));
  }
}

async function drawSamples(state, parts) {
  const model = state.model;
  const { samples } = await get(`models/${model.id}/samples`, state.signal);
  if (state.model !== model) return;
  const tile = (sample) => el("button.tile", { type: "button", title: `${sample.licence}. ${sample.citation}`, on: { click: async (event) => {
    event.currentTarget.disabled = true;
    try {
      const made = await order({ model: model.id, sample: sample.id, options: state.options }, []);
      location.hash = `#/cases/${made.id}`;
    } catch (error) {
      put(parts.said, problemBox(error));
    }
  } } }, el("strong", { text: sample.id }), el("span.small", { text: sample.licence }));
  put(parts.samples, samples.length ? samples.map(tile) : el("p.small", { text: t("noSamples") }));
}
