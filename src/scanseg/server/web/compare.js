// Two pictures of one slice, wiped over each other: with and without the mask, or two predictions of one image.
// The server draws both, so this needs no graphics card.

import { bytes, get, Problem } from "./api.js";
import { el } from "./dom.js";
import { when } from "./format.js";
import { solve } from "./slices.js";
import { t } from "./texts.js";

const KEPT = 60;
const STEP = 2;
const ORDER = ["sagittal", "coronal", "axial"];

export class WipeViewer {
  constructor(host, context) {
    this.context = context;
    this.axes = context.result.view.axes;
    this.layouts = Object.keys(this.axes);
    this.at = Object.fromEntries(this.layouts.map((name) => [name, Math.floor(this.axes[name].count / 2)]));
    this.before = context.look.layout;
    if (!this.layouts.includes(this.before)) context.look.layout = this.layouts[0];
    this.other = null;
    this.others = new Map();
    this.cache = new Map();
    this.build(host);
    this.resize = new ResizeObserver(() => this.draw());
    this.resize.observe(this.canvas);
    this.ready = this.start();
  }

  build(host) {
    this.canvas = el("canvas.slice", { tabindex: "0", role: "img" });
    this.wipe = el("input", { type: "range", id: "wipe", min: 0, max: 100, step: 1, value: 50, on: { input: () => this.draw() } });
    this.slice = el("input", { type: "range", id: "wipe-slice", min: 0, on: { input: () => this.move(Number(this.slice.value)) } });
    this.number = el("span.num.small");
    this.choice = el("select", { id: "compare-with", on: { change: () => this.choose().catch(this.context.fail) } },
      el("option", { value: "", text: t("withoutMask") }));
    this.names = [el("span.small", { id: "compare-left" }), el("span.small", { id: "compare-right" })];
    this.node = el("div.pane.wipe", {}, this.canvas,
      el("div.row.slider", {}, this.names[0], el("label.hidden", { for: "wipe", text: t("wipe") }), this.wipe, this.names[1]),
      this.row = el("div.row.slider", {}, el("label.small", { for: "wipe-slice" }), this.slice, this.number),
      el("div.row.slider", {}, el("label.small", { for: "compare-with", text: t("compareWith") }), this.choice));
    host.replaceChildren(this.node);
    const drag = (event) => this.setWipe((100 * event.offsetX - 100 * this.left()) / Math.max(1, this.canvas.clientWidth - 2 * this.left()));
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.focus({ preventScroll: true });
      this.canvas.setPointerCapture(event.pointerId);
      drag(event);
    });
    this.canvas.addEventListener("pointermove", (event) => event.buttons === 1 && drag(event));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /** Fills the list of what this can be compared with: finished predictions of the same bytes. */
  async start() {
    const { job, result, signal } = this.context;
    const first = result.labels.find((label) => label.centroid_mm);
    if (first) this.place(first.centroid_mm);
    const { predictions } = await get("predictions?limit=200", signal);
    for (const one of predictions) if (one.id !== job.id && one.state === "done" && sameImage(one, job)) this.others.set(one.id, one);
    this.choice.append(...[...this.others.values()].map((one) => el("option", { value: one.id, text: nameOf(one) })));
    await this.load();
  }

  async choose() {
    const found = this.others.get(this.choice.value) ?? null;
    const result = found && await get(`predictions/${found.id}/result`, this.context.signal);
    if (found && !sameGrid(result.view.axes, this.axes)) {
      this.choice.value = "";
      this.other = null;
      await this.load();
      throw new Problem({ code: "E-PAGE-COMPARE", detail: t("otherGrid"), hint: t("otherGridHint") });
    }
    this.other = found && { job: found, result };
    await this.load();
  }

  key(event) {
    const wipes = { ArrowLeft: -STEP, ArrowRight: STEP, Home: -100, End: 100 };
    const slices = { PageUp: -1, PageDown: 1 };
    if (event.key in wipes) this.setWipe(Number(this.wipe.value) + wipes[event.key]);
    else if (event.key in slices) this.move(this.at[this.plane()] + slices[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  plane() {
    return this.context.look.layout;
  }

  setWipe(percent) {
    this.wipe.value = String(Math.min(100, Math.max(0, Math.round(percent))));
    this.draw();
  }

  move(index) {
    const plane = this.plane();
    this.at[plane] = Math.min(this.axes[plane].count - 1, Math.max(0, index));
    this.load().catch(this.context.fail);
  }

  place(mm) {
    const { affine } = this.context.result.view;
    if (!affine || !mm) return;
    const index = solve(affine, mm);
    ORDER.forEach((axis, place) => {
      if (axis in this.axes) this.at[axis] = Math.min(this.axes[axis].count - 1, Math.max(0, Math.round(index[place])));
    });
  }

  goTo(mm) {
    this.place(mm);
    this.changed();
  }

  changed() {
    this.load().catch(this.context.fail);
  }

  // -- pictures --------------------

  /** Fetches both pictures; while they come, only the last ones asked for wait. */
  async load() {
    const { count } = this.axes[this.plane()];
    const index = this.at[this.plane()];
    const text = t(`layout_${this.plane()}`);
    this.row.hidden = count < 2;
    this.row.firstChild.textContent = text;
    Object.assign(this.slice, { max: String(count - 1), value: String(index) });
    this.number.textContent = `${index + 1} / ${count}`;
    this.canvas.setAttribute("aria-label", t("wipeHelp", { axis: text }));
    this.again = true;
    this.work ??= this.fetch().finally(() => { this.work = null; });
    await this.work;
  }

  async fetch() {
    while (this.again) {
      this.again = false;
      this.shown = await Promise.all(this.sides().map(({ path }) => this.kept(path)));
      this.draw();
    }
  }

  /** Returns name and picture of the left and the right side. */
  sides() {
    const { job, result, look } = this.context;
    const visible = [...look.labels].filter(([, label]) => label.visible);
    const opacity = visible.length ? visible[0][1].opacity : 0;
    const path = (id, overlay, labels) => {
      const query = new URLSearchParams({ window: look.window.join(","), channel: look.channel, overlay, uncertainty: look.uncertainty });
      if (labels) query.set("labels", labels.map(([value]) => value).join(","));
      return `predictions/${id}/slice/${this.plane()}/${this.plane() === "plane" ? 0 : this.at[this.plane()]}.png?${query}`;
    };
    const left = { name: this.other ? nameOf(job) : t("withMask"), path: path(job.id, opacity, visible) };
    if (!this.other) return [left, { name: t("withoutMask"), path: path(job.id, 0, null) }];
    // Another model has other labels: then all of them are shown.
    const same = this.other.result.model.id === result.model.id;
    return [left, { name: nameOf(this.other.job), path: path(this.other.job.id, same ? opacity : 0.5, same ? visible : null) }];
  }

  async kept(path) {
    if (!this.cache.has(path)) {
      if (this.cache.size > KEPT) this.cache.delete(this.cache.keys().next().value);
      this.cache.set(path, await createImageBitmap((await bytes(path, this.context.signal)).blob));
    }
    return this.cache.get(path);
  }

  draw() {
    const [left, right] = this.sides().map(({ name }) => name);
    const share = Number(this.wipe.value) / 100;
    const text = t("wipeText", { percent: this.wipe.value, left, right });
    this.names[0].textContent = left;
    this.names[1].textContent = right;
    this.wipe.setAttribute("aria-valuetext", text);
    this.context.tell(text);
    if (!this.shown || !this.canvas.clientWidth || !this.canvas.clientHeight) return;
    const { canvas } = this;
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * scale);
    canvas.height = Math.round(canvas.clientHeight * scale);
    const axis = this.axes[this.plane()];
    const [wide, high] = [axis.columns * axis.spacing[1], axis.rows * axis.spacing[0]];
    const fit = Math.min(canvas.width / wide, canvas.height / high);
    const box = { x: (canvas.width - wide * fit) / 2, y: (canvas.height - high * fit) / 2, width: wide * fit, height: high * fit };
    this.box = box;
    const pen = canvas.getContext("2d");
    const edge = Math.round(box.x + share * box.width);
    this.shown.forEach((picture, side) => {
      pen.save();
      pen.beginPath();
      pen.rect(side ? edge : 0, 0, side ? canvas.width - edge : edge, canvas.height);
      pen.clip();
      pen.drawImage(picture, box.x, box.y, box.width, box.height);
      pen.restore();
    });
    pen.fillStyle = "#40becd";
    pen.fillRect(edge - scale, box.y, 2 * scale, box.height);
  }

  /** Returns the free room left of the picture in CSS pixels. */
  left() {
    return this.box ? (this.box.x * this.canvas.clientWidth) / this.canvas.width : 0;
  }

  canvases() {
    return [this.canvas];
  }

  destroy() {
    this.resize.disconnect();
    this.context.look.layout = this.before;
    this.node.remove();
  }
}

function nameOf(job) {
  return `${job.model} \u00b7 ${when(job.created)}`;
}

/** Tells whether two predictions read the same bytes in the same order. */
export function sameImage(one, other) {
  const sums = (job) => job.inputs.map((input) => input.sha256);
  const [a, b] = [sums(one), sums(other)];
  return a.length === b.length && a.every((sum, index) => sum && sum === b[index]);
}

function sameGrid(one, other) {
  return Object.keys(other).every((name) => one[name] && ["count", "rows", "columns"].every((key) => one[name][key] === other[name][key]));
}
