// The viewer: a tool bar around NiiVue on the graphics card, slices drawn by the server, or a comparison of such slices.

import { bytes } from "./api.js";
import { el, icon, put, save } from "./dom.js";
import { number } from "./format.js";
import { problemBox } from "./problem.js";
import { SliceViewer } from "./slices.js";
import { t } from "./texts.js";

// A volume of more voxels is left to the server: image, mask and map would not fit on small graphics cards.
const MOST_VOXELS = 200e6;

/** Returns how labels and image are shown at first. */
export function firstLook(result) {
  const windows = result.view.windows;
  const name = "auto" in windows ? "auto" : Object.keys(windows)[0];
  return {
    windowName: name, window: windows[name], channel: 0, uncertainty: false, layout: "all",
    labels: new Map(result.labels.map((label) => [label.value, { name: label.name, colour: label.colour, visible: true, opacity: 0.5 }])),
  };
}

/** Tells whether this browser draws volumes. */
function hasWebGl2() {
  try {
    const found = document.createElement("canvas").getContext("webgl2");
    const good = found !== null;
    found?.getExtension("WEBGL_lose_context")?.loseContext();
    return good;
  } catch {
    return false;
  }
}

function kinds(result) {
  const voxels = result.input.shape.reduce((product, length) => product * length, 1);
  const volume = result.view.kind === "volume" && voxels <= MOST_VOXELS && hasWebGl2();
  return volume ? ["volume", "slices"] : ["slices"];
}

/**
 * Returns the viewer: `node`, `ready`, `changed()` after the look changed, `goTo(mm)` and `destroy()`.
 * @param {object} job
 * @param {object} result
 * @param {object} look From `firstLook`; the tool bar changes it.
 * @param {AbortSignal} signal
 */
export function makeViewer(job, result, look, signal) {
  const possible = kinds(result);
  const host = el("div.view");
  const said = el("div");
  const place = el("p.place.num.small", { "aria-live": "off", text: "\u00a0" });
  const bar = el("div.toolbar", { role: "toolbar", "aria-label": t("viewer") });
  const context = { job, result, look, signal, tell: (text) => { place.textContent = text || "\u00a0"; }, fail, lost };
  let drawing = null;
  let kind = possible[0];
  let before = kind;
  let waits = false;
  const viewer = { node: el("section.viewer.card", { "aria-label": t("viewer") }, bar, said, host, place), ready: null, changed, goTo, destroy };

  function fail(error) {
    if (error.name !== "AbortError") put(said, problemBox(error));
  }

  function noVolume() {
    put(said, el("p.note", { text: t("volumeFailed") }));
    if (possible.includes("volume")) possible.splice(possible.indexOf("volume"), 1);
  }

  /** The graphics card took its memory back, as when a computer wakes. */
  function lost() {
    open("slices").then(noVolume).then(tools).catch(fail);
  }

  async function open(wanted) {
    if (kind !== "compare") before = kind;
    kind = wanted;
    drawing?.destroy();
    put(said);
    if (kind === "volume") {
      put(host, el("p.empty", { text: t("loadingVolume") }));
      try {
        const { VolumeViewer } = await import("./volume.js");
        drawing = new VolumeViewer(host, context);
        await drawing.ready;
      } catch (error) {
        if (error.name === "AbortError" || signal.aborted) return;
        console.warn(error.message);
        drawing?.destroy();
        noVolume();
        kind = "slices";
      }
    }
    if (kind === "compare") {
      const { WipeViewer } = await import("./compare.js");
      drawing = new WipeViewer(host, context);
      await drawing.ready;
    }
    if (kind === "slices") {
      drawing = new SliceViewer(host, context);
      await drawing.ready;
    }
    viewer.node.dataset.kind = kind;
    tools();
  }

  /** Draws once for all changes of a frame: sliders tell of more than can be drawn. */
  function changed() {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      if (!signal.aborted) drawing?.changed();
    });
  }

  function goTo(mm) {
    drawing?.goTo(mm);
    host.scrollIntoView({ block: "nearest" });
  }

  function destroy() {
    drawing?.destroy();
  }

  function tools() {
    const view = result.view;
    const choice = (id, label, entries, value, onChange) => {
      const node = el("select", { id, on: { change: () => onChange(node.value) } }, entries.map(([key, text]) => el("option", { value: key, text })));
      node.value = value;
      return el("span.tool", {}, el("label", { for: id, text: label }), node);
    };
    const layouts = drawing.layouts.map((name) => [name, t(`layout_${name}`)]);
    const windows = Object.keys(view.windows).map((name) => [name, t(`window_${name.replace(" ", "_")}`)]);
    const held = bar.contains(document.activeElement) ? document.activeElement.id : "";
    put(bar,
      layouts.length > 1 && choice("layout", t("layout"), layouts, look.layout, (value) => { look.layout = value; changed(); }),
      !view.colour && choice("window", t("window"), windows, look.windowName, (value) => {
        Object.assign(look, { windowName: value, window: view.windows[value] });
        changed();
      }),
      view.channels > 1 && !view.colour && choice("channel", t("channel"), result.input.channels.map((name, index) => [index, name]), look.channel, (value) => {
        look.channel = Number(value);
        changed();
      }),
      view.uncertainty && toggle(t("uncertainty"), look.uncertainty, (on) => { look.uncertainty = on; changed(); }, "uncertainty-toggle"),
      drawing.measure && toggle(t("measure"), false, (on) => drawing.measure(on), "measure"),
      toggle(t("compare"), kind === "compare", (on) => open(on ? "compare" : before).catch(fail), "compare"),
      el("span.space"),
      possible.length > 1 && kind !== "compare" && el("button.quiet", { type: "button", id: "viewer-kind", text: t(kind === "volume" ? "toSlices" : "toVolume"), on: { click: () => open(kind === "volume" ? "slices" : "volume").catch(fail) } }),
      el("button.quiet", { type: "button", id: "screenshot", on: { click: () => screenshot().catch(fail) } }, icon("camera"), t("screenshot")));
    if (held) document.getElementById(held)?.focus();
  }

  async function screenshot() {
    await new Promise((resolve) => requestAnimationFrame(resolve));
    save(await labelled(drawing.canvases(), result), `${job.id}_view.png`);
  }

  viewer.ready = open(kind).catch(fail);
  return viewer;
}

function toggle(text, on, onChange, id) {
  const button = el("button", { type: "button", id, "aria-pressed": String(on), text, on: { click: () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(now));
    onChange(now);
  } } });
  return button;
}

/** Returns a PNG of canvases as they lie on the page, with the notice below. */
async function labelled(canvases, result) {
  const boxes = canvases.map((canvas) => canvas.getBoundingClientRect());
  const left = Math.min(...boxes.map((box) => box.left));
  const top = Math.min(...boxes.map((box) => box.top));
  const wide = Math.max(...boxes.map((box) => box.right)) - left;
  const high = Math.max(...boxes.map((box) => box.bottom)) - top;
  const scale = window.devicePixelRatio || 1;
  const picture = el("canvas", { width: Math.round(wide * scale), height: Math.round((high + 24) * scale) });
  const pen = picture.getContext("2d");
  pen.scale(scale, scale);
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, wide, high + 24);
  canvases.forEach((canvas, index) => pen.drawImage(canvas, boxes[index].left - left, boxes[index].top - top, boxes[index].width, boxes[index].height));
  pen.fillStyle = "#ccc";
  pen.font = "12px sans-serif";
  pen.fillText(`scanseg \u00b7 ${result.model.id} ${result.model.version} \u00b7 ${result.disclaimer}`, 8, high + 16);
  return new Promise((resolve) => picture.toBlob(resolve, "image/png"));
}

/** Returns where the cross-hair is, as text. */
export function placeText({ mm, index, value, label }) {
  const parts = [];
  if (mm) parts.push(`${mm.map((one) => one.toFixed(1)).join("  ")} mm`);
  if (index) parts.push(t("index", { index: index.join(", ") }));
  if (value !== undefined && value !== null) parts.push(t("intensity", { value: number(value) }));
  if (label) parts.push(label);
  return parts.join("   \u00b7   ");
}

/** Returns bytes of a file of the result as an array buffer. */
export async function buffer(path, signal) {
  return (await bytes(path, signal)).blob.arrayBuffer();
}
