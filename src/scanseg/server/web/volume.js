// Volumes on the graphics card, with NiiVue (vendor/README.md).

import { buffer, placeText } from "./viewer.js";
import { el, put } from "./dom.js";
import { solve } from "./slices.js";
import { t } from "./texts.js";
import { DRAG_MODE, MULTIPLANAR_TYPE, Niivue, NVImage, SHOW_RENDER, SLICE_TYPE } from "./vendor/niivue.js";

const LAYOUTS = {
  all: SLICE_TYPE.MULTIPLANAR, axial: SLICE_TYPE.AXIAL, coronal: SLICE_TYPE.CORONAL, sagittal: SLICE_TYPE.SAGITTAL, volume: SLICE_TYPE.RENDER,
};
const HEAT = "scanseg_uncertainty";
// NiiVue's COLORMAP_TYPE.ZERO_TO_MAX_TRANSLUCENT_BELOW_MIN.
const TRANSLUCENT_BELOW = 2;
const STEPS = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] };

export class VolumeViewer {
  layouts = Object.keys(LAYOUTS);

  constructor(host, context) {
    this.context = context;
    this.canvas = el("canvas.gl", { tabindex: "0", role: "img", "aria-label": t("volumeHelp") });
    put(host, this.canvas);
    this.canvas.addEventListener("webglcontextlost", () => this.gone || context.lost());
    this.nv = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.25, 0.75, 0.8, 0.8], crosshairWidth: 0.4, crosshairWidthUnit: "percent", show3Dcrosshair: true,
      isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarLayout: MULTIPLANAR_TYPE.GRID,
      multiplanarShowRender: SHOW_RENDER.ALWAYS, multiplanarPadPixels: 4, isResizeCanvas: true, dragAndDropEnabled: false, isColorbar: false,
      clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "", logLevel: "error", loadingText: "", scrollRequiresFocus: true,
      dragMode: DRAG_MODE.windowing, fontColor: [0.89, 0.91, 0.93, 1], fontMinPx: 12, showLegend: false,
    });
    this.ready = this.open();
  }

  async open() {
    const { job, look, signal } = this.context;
    const nv = this.nv;
    await nv.attachToCanvas(this.canvas);
    // Red as in the server's slices. Below 0.6 it is the more opaque the less sure.
    nv.addColormap(HEAT, { R: [255, 255], G: [51, 51], B: [26, 26], A: [255, 255], I: [0, 255] });
    const base = `predictions/${job.id}`;
    const [image, mask] = await Promise.all([buffer(`${base}/image?format=nii.gz`, signal), buffer(`${base}/mask?format=nii.gz`, signal)]);
    this.image = await volume(image, "image.nii.gz", "gray", look.window, look.channel);
    this.masks = [await volume(mask, "mask.nii.gz", "gray", [0, 1], 0)];
    this.values = this.masks[0].img.slice();
    nv.addVolume(this.image);
    nv.addVolume(this.masks[0]);
    nv.onLocationChange = (found) => this.context.tell(this.where(found));
    // Before NiiVue's own keys, which would turn the volume.
    this.canvas.addEventListener("keydown", (event) => this.key(event), { capture: true });
    nv.opts.multiplanarShowRender = SHOW_RENDER.ALWAYS;
    this.changed();
    const first = this.context.result.labels.find((label) => label.centroid_mm);
    if (first) this.goTo(first.centroid_mm);
    else nv.createOnLocationChange();
  }

  /** Shows the labels: the graphics card knows one opacity a volume, so each opacity has a volume of its own. */
  paintLabels() {
    const { labels } = this.context.look;
    const groups = new Map();
    for (const [value, label] of labels) if (label.visible) groups.set(label.opacity, [...(groups.get(label.opacity) ?? []), value]);
    const entries = [...groups];
    while (this.masks.length < entries.length) {
      const more = this.masks[0].clone();
      this.masks.push(more);
      this.nv.addVolume(more);
    }
    this.masks.forEach((mask, index) => {
      const [opacity, values] = entries[index] ?? [0, []];
      const shown = new Set(values);
      // Voxels of other labels are taken out: a transparent colour would leave a rim.
      mask.img.set(this.values.map((value) => (shown.has(value) ? value : 0)));
      mask.setColormapLabel(table(labels));
      mask.opacity = opacity;
    });
  }

  changed() {
    const { look } = this.context;
    [this.image.cal_min, this.image.cal_max] = look.window;
    if (this.image.frame4D !== look.channel) this.nv.setFrame4D(this.image.id, look.channel);
    this.paintLabels();
    this.nv.setSliceType(LAYOUTS[look.layout] ?? LAYOUTS.all);
    this.nv.updateGLVolume();
    this.showUncertainty(look.uncertainty).catch(this.context.fail);
  }

  async showUncertainty(on) {
    if (!on && !this.map) return;
    if (on && !this.map) {
      this.map = "coming";
      const { job, signal } = this.context;
      this.map = await volume(await buffer(`predictions/${job.id}/uncertainty`, signal), "uncertainty.nii.gz", HEAT, [0.6, 1], 0);
      this.map.colormapType = TRANSLUCENT_BELOW;
      this.nv.addVolume(this.map);
    }
    if (this.map === "coming") return;
    this.nv.setOpacity(this.nv.getVolumeIndexByID(this.map.id), this.context.look.uncertainty ? 0.8 : 0);
  }

  where(found) {
    const value = found.values?.[0]?.value;
    const label = this.context.look.labels.get(this.valueAt(found.vox))?.name;
    const { affine } = this.context.result.view;
    const mm = affine ? [...found.mm].slice(0, 3) : null;
    // Indices as the slices count them, whichever drawing is used.
    const index = affine ? solve(affine, mm).map(Math.round) : [...found.vox].slice(0, 3);
    return placeText({ mm, index, value, label });
  }

  /** Returns the label value at an index of NiiVue, which counts along the axes nearest to right, front and up. */
  valueAt(vox) {
    const mask = this.masks[0];
    const [, columns, rows, slices] = mask.dimsRAS;
    const [x, y, z] = vox;
    if (x < 0 || y < 0 || z < 0 || x >= columns || y >= rows || z >= slices) return 0;
    const at = mask.img2RASstart.reduce((sum, start, axis) => sum + start + vox[axis] * mask.img2RASstep[axis], 0);
    return this.values[at];
  }

  key(event) {
    const step = STEPS[event.key];
    event.stopPropagation();
    if (!step) return;
    event.preventDefault();
    this.nv.moveCrosshairInVox(...step);
  }

  goTo(mm) {
    this.nv.scene.crosshairPos = this.nv.mm2frac(mm);
    this.nv.createOnLocationChange();
    this.nv.drawScene();
  }

  measure(on) {
    this.nv.opts.dragModePrimary = on ? DRAG_MODE.measurement : DRAG_MODE.crosshair;
  }

  canvases() {
    // The drawing buffer is kept only until the browser has painted: draw now, copy now.
    this.nv.drawScene();
    return [this.canvas];
  }

  destroy() {
    this.gone = true;
    this.nv.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    this.nv.cleanup?.();
    this.canvas.remove();
  }
}

function volume(data, name, colours, [low, high], frame) {
  return NVImage.new(data, name, colours, 1, null, low, high, true, 0.02, false, false, "", frame);
}

/** Returns the colours of labels as NiiVue's table. */
function table(labels) {
  const found = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
  for (const [value, label] of [...labels].sort(([a], [b]) => a - b)) {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(label.colour.slice(at, at + 2), 16));
    found.R.push(red);
    found.G.push(green);
    found.B.push(blue);
    found.A.push(255);
    found.I.push(value);
    found.labels.push(label.name);
  }
  return found;
}
