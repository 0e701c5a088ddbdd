// Slices as the server draws them. The image and the labels come as two pictures, so that colours, opacities and
// hidden labels need no further request, and labels stay exact while the image is smoothed.

import { bytes } from "./api.js";
import { el, put } from "./dom.js";
import { Labels } from "./labels_picture.js";
import { t } from "./texts.js";
import { placeText } from "./viewer.js";

// Which axis runs along columns and rows of a slice, and the letters at its left and top edge.
const PLANES = {
  axial: { columns: "sagittal", rows: "coronal", letters: ["R", "A"] },
  coronal: { columns: "sagittal", rows: "axial", letters: ["R", "S"] },
  sagittal: { columns: "coronal", rows: "axial", letters: ["A", "S"] },
  plane: { columns: "x", rows: "y", letters: null },
};
const ORDER = ["sagittal", "coronal", "axial"];
const KEPT = 150;

export class SliceViewer {
  constructor(host, context) {
    this.context = context;
    this.view = context.result.view;
    this.names = Object.keys(this.view.axes);
    this.layouts = this.names.length > 1 ? ["all", ...this.names] : ["plane"];
    this.at = Object.fromEntries(this.names.map((name) => [name, Math.floor(this.view.axes[name].count / 2)]));
    if (this.names[0] === "plane") Object.assign(this.at, { x: Math.floor(this.view.axes.plane.columns / 2), y: Math.floor(this.view.axes.plane.rows / 2) });
    this.zoom = 1;
    this.cache = new Map();
    this.panes = this.names.map((name) => this.pane(name));
    this.grid = el("div.panes", {}, this.panes.map((pane) => pane.node));
    put(host, this.grid);
    this.resize = new ResizeObserver(() => this.paint());
    this.resize.observe(this.grid);
    this.ready = this.start();
  }

  async start() {
    const first = this.context.result.labels.find((label) => label.centroid_mm);
    if (first) this.goTo(first.centroid_mm);
    this.layoutPanes();
    await Promise.all(this.panes.map((pane) => this.load(pane)));
  }

  pane(name) {
    const axis = this.view.axes[name];
    const canvas = el("canvas.slice", { tabindex: "0", role: "img", "aria-label": t("sliceHelp", { axis: t(`layout_${name}`) }) });
    const pane = { name, axis, canvas, shown: null, work: null, again: false };
    const parts = [canvas];
    if (axis.count > 1) {
      pane.range = el("input", { type: "range", min: 0, max: axis.count - 1, value: this.at[name], "aria-label": t("sliceOf", { axis: t(`layout_${name}`) }), on: {
        input: () => this.move({ [name]: Number(pane.range.value) }),
      } });
      pane.number = el("span.num.small");
      parts.push(el("div.row.slider", {}, el("span.small", { text: t(`layout_${name}`) }), pane.range, pane.number));
    } else {
      parts.push(el("div.row.slider", {}, el("label.small", { for: "zoom", text: t("zoom") }), el("input", { type: "range", id: "zoom", min: 1, max: 8, step: 0.5, value: 1, on: {
        input: (event) => {
          this.zoom = Number(event.target.value);
          this.paint();
        },
      } })));
    }
    pane.node = el("div.pane", { "data-axis": name }, parts);
    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      this.point(pane, event);
    });
    canvas.addEventListener("pointermove", (event) => event.buttons === 1 && this.point(pane, event));
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas || axis.count < 2) return;
      event.preventDefault();
      this.move({ [name]: this.at[name] + Math.sign(event.deltaY) });
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(pane, event));
    return pane;
  }

  key(pane, event) {
    const { columns, rows } = PLANES[pane.name];
    const steps = { ArrowLeft: [columns, -1], ArrowRight: [columns, 1], ArrowUp: [rows, -1], ArrowDown: [rows, 1], PageUp: [pane.name, -1], PageDown: [pane.name, 1] };
    if (!steps[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    const [axis, step] = steps[event.key];
    this.move({ [axis]: (this.at[axis] ?? 0) + step });
  }

  /** Moves the cross-hair to where the pointer is. */
  point(pane, event) {
    if (!pane.box) return;
    const { columns, rows } = PLANES[pane.name];
    const scale = pane.canvas.width / pane.canvas.clientWidth;
    const x = Math.floor(((event.offsetX * scale - pane.box.x) / pane.box.width) * pane.axis.columns);
    const y = Math.floor(((event.offsetY * scale - pane.box.y) / pane.box.height) * pane.axis.rows);
    this.move({ [columns]: x, [rows]: y });
  }

  countOf(axis) {
    if (axis === "x") return this.view.axes.plane.columns;
    if (axis === "y") return this.view.axes.plane.rows;
    return this.view.axes[axis].count;
  }

  move(changes) {
    for (const [axis, index] of Object.entries(changes)) this.at[axis] = Math.min(this.countOf(axis) - 1, Math.max(0, index));
    this.panes.forEach((pane) => this.load(pane).catch(this.context.fail));
    this.tell();
  }

  goTo(mm) {
    const affine = this.view.affine;
    if (!affine || !mm) return;
    const index = solve(affine, mm);
    this.move(Object.fromEntries(ORDER.map((axis, place) => [axis, Math.round(index[place])])));
  }

  changed() {
    this.layoutPanes();
    this.panes.forEach((pane) => this.load(pane).catch(this.context.fail));
  }

  layoutPanes() {
    const { layout } = this.context.look;
    const single = this.names.includes(layout) && this.names.length > 1;
    this.grid.dataset.count = single ? "1" : String(this.names.length);
    for (const pane of this.panes) pane.node.hidden = single && pane.name !== layout;
  }

  tell() {
    const { affine } = this.view;
    const index = this.names.length > 1 ? ORDER.map((axis) => this.at[axis]) : [this.at.x, this.at.y];
    const mm = affine ? affine.slice(0, 3).map((row) => row[0] * index[0] + row[1] * index[1] + row[2] * index[2] + row[3]) : null;
    const pane = this.panes.find((one) => one.shown && !one.node.hidden);
    const { columns, rows } = pane ? PLANES[pane.name] : {};
    const label = this.context.look.labels.get(pane?.shown.labels?.valueAt(this.at[columns], this.at[rows]))?.name;
    this.context.tell(placeText({ mm, index, label }));
  }

  // -- pictures --------------------

  /** Fetches what a pane shows; while one slice comes, only the last one asked for waits. */
  async load(pane) {
    if (pane.range) {
      pane.range.value = String(this.at[pane.name]);
      pane.number.textContent = `${this.at[pane.name] + 1} / ${pane.axis.count}`;
    }
    if (pane.node.hidden) return;
    pane.again = true;
    pane.work ??= this.work(pane).finally(() => {
      pane.work = null;
    });
    await pane.work;
    this.tell();
  }

  async work(pane) {
    while (pane.again) {
      pane.again = false;
      pane.shown = await this.slice(pane);
      this.draw(pane);
    }
  }

  async slice(pane) {
    const { look, result } = this.context;
    const base = `predictions/${this.context.job.id}/slice/${pane.name}/${pane.name === "plane" ? 0 : this.at[pane.name]}.png`;
    const labels = await this.kept(`${base}#labels`, () => Labels.read(base, result.labels, (path) => this.picture(path)));
    const query = new URLSearchParams({ window: look.window.join(","), channel: look.channel, overlay: 0, uncertainty: look.uncertainty });
    if (!labels) {
      // Then the server draws them, in its own colours and with one opacity.
      const visible = [...look.labels].filter(([, label]) => label.visible);
      query.set("overlay", visible.length ? visible[0][1].opacity : 0);
      query.set("labels", visible.map(([value]) => value).join(","));
    }
    const image = await this.kept(`${base}?${query}`, () => this.picture(`${base}?${query}`));
    return { image, labels };
  }

  async kept(key, make) {
    if (!this.cache.has(key)) {
      if (this.cache.size > KEPT) this.cache.delete(this.cache.keys().next().value);
      this.cache.set(key, await make());
    }
    return this.cache.get(key);
  }

  async picture(path) {
    const { blob } = await bytes(path, this.context.signal);
    return createImageBitmap(blob);
  }

  paint() {
    for (const pane of this.panes) if (pane.shown) this.draw(pane);
  }

  draw(pane) {
    const { canvas, axis } = pane;
    if (!canvas.clientWidth || !canvas.clientHeight) return;
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * scale);
    canvas.height = Math.round(canvas.clientHeight * scale);
    const pen = canvas.getContext("2d");
    const [rowStep, columnStep] = axis.spacing;
    const wide = axis.columns * columnStep;
    const high = axis.rows * rowStep;
    const fit = Math.min(canvas.width / wide, canvas.height / high) * this.zoom;
    const box = { width: wide * fit, height: high * fit };
    const { columns, rows } = PLANES[pane.name];
    const at = [(this.at[columns] + 0.5) / axis.columns, (this.at[rows] + 0.5) / axis.rows];
    // Zoomed, the cross-hair is in the middle, as far as the picture reaches.
    box.x = inside(canvas.width, box.width, at[0]);
    box.y = inside(canvas.height, box.height, at[1]);
    pane.box = box;
    pen.imageSmoothingEnabled = fit * Math.min(rowStep, columnStep) < 12;
    pen.drawImage(pane.shown.image, box.x, box.y, box.width, box.height);
    pen.imageSmoothingEnabled = false;
    const { labels } = pane.shown;
    if (labels) pen.drawImage(labels.picture(this.context.look.labels), box.x, box.y, box.width, box.height);
    this.cross(pen, pane, box, at, scale);
  }

  cross(pen, pane, box, at, scale) {
    const { letters } = PLANES[pane.name];
    const x = box.x + at[0] * box.width;
    const y = box.y + at[1] * box.height;
    const gap = 8 * scale;
    pen.strokeStyle = "rgba(64,190,205,.8)";
    pen.lineWidth = scale;
    pen.beginPath();
    for (const [from, to] of [[[box.x, y], [x - gap, y]], [[x + gap, y], [box.x + box.width, y]], [[x, box.y], [x, y - gap]], [[x, y + gap], [x, box.y + box.height]]]) {
      pen.moveTo(...from);
      pen.lineTo(...to);
    }
    pen.stroke();
    if (!letters || !this.view.affine) return;
    pen.font = `600 ${11 * scale}px sans-serif`;
    pen.fillStyle = "#e3e9ed";
    pen.strokeStyle = "#000";
    pen.lineWidth = 3 * scale;
    for (const [letter, left, top] of [[letters[0], 4 * scale, pen.canvas.height / 2 - gap], [letters[1], pen.canvas.width / 2 + gap, 13 * scale]]) {
      pen.strokeText(letter, left, top);
      pen.fillText(letter, left, top);
    }
  }

  canvases() {
    return this.panes.filter((pane) => !pane.node.hidden).map((pane) => pane.canvas);
  }

  destroy() {
    this.resize.disconnect();
    this.grid.remove();
  }
}

function inside(room, size, at) {
  return size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, room / 2 - at * size));
}

/** Returns the index (3) whose place in mm is given, for an affine of 4 rows. */
export function solve(affine, mm) {
  const [a, b, c] = affine;
  const right = [mm[0] - a[3], mm[1] - b[3], mm[2] - c[3]];
  const det = (x, y, z) => x[0] * (y[1] * z[2] - y[2] * z[1]) - x[1] * (y[0] * z[2] - y[2] * z[0]) + x[2] * (y[0] * z[1] - y[1] * z[0]);
  const whole = det(a, b, c);
  return [0, 1, 2].map((column) => {
    const rows = [a, b, c].map((row, index) => row.slice(0, 3).map((value, at) => (at === column ? right[index] : value)));
    return det(...rows) / whole;
  });
}
