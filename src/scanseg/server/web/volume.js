// Volumes on the graphics card, with NiiVue (vendor/README.md).

import { buffer, placeText } from "./viewer.js";
import { el, put } from "./dom.js";
import { t } from "./texts.js";
import { DRAG_MODE, Niivue, NVImage, SHOW_RENDER, SLICE_TYPE } from "./vendor/niivue.js";

const LAYOUTS = {
  all: SLICE_TYPE.MULTIPLANAR, axial: SLICE_TYPE.AXIAL, coronal: SLICE_TYPE.CORONAL, sagittal: SLICE_TYPE.SAGITTAL, volume: SLICE_TYPE.RENDER,
};
const STEPS = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] };

export class VolumeViewer {
  layouts = Object.keys(LAYOUTS);

  constructor(host, context) {
    this.context = context;
    this.canvas = el("canvas.gl", { tabindex: "0", role: "img", "aria-label": t("volumeHelp") });
    put(host, this.canvas);
    this.nv = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.25, 0.75, 0.8, 0.8], crosshairWidth: 1, show3Dcrosshair: true, isRadiologicalConvention: true,
      multiplanarShowRender: SHOW_RENDER.ALWAYS, multiplanarPadPixels: 4, isResizeCanvas: true, dragAndDropEnabled: false, isColorbar: false,
      clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "", logLevel: "error", loadingText: "", scrollRequiresFocus: true,
      dragMode: DRAG_MODE.windowing, isOrientCube: false, fontMinPx: 11, showLegend: false,
    });
    this.ready = this.open();
  }

  async open() {
    const { job, look, signal } = this.context;
    const nv = this.nv;
    await nv.attachToCanvas(this.canvas);
    const base = `predictions/${job.id}`;
    const [image, mask] = await Promise.all([buffer(`${base}/image?format=nii.gz`, signal), buffer(`${base}/mask?format=nii.gz`, signal)]);
    this.image = await volume(image, "image.nii.gz", "gray", look.window, look.channel);
    this.mask = await volume(mask, "mask.nii.gz", "gray", [0, 1], 0);
    this.mask.setColormapLabel(this.table());
    nv.addVolume(this.image);
    nv.addVolume(this.mask);
    nv.onLocationChange = (found) => this.context.tell(this.where(found));
    // Before NiiVue's own keys, which would turn the volume.
    this.canvas.addEventListener("keydown", (event) => this.key(event), { capture: true });
    nv.opts.multiplanarShowRender = SHOW_RENDER.ALWAYS;
    this.changed();
    nv.createOnLocationChange();
  }

  /** Colours of the mask as a table: a hidden label is transparent. */
  table() {
    const { labels } = this.context.look;
    const most = Math.max(0, ...labels.keys());
    const found = { R: [], G: [], B: [], A: [], I: [], labels: [] };
    for (let value = 0; value <= most; value++) {
      const label = labels.get(value);
      const [red, green, blue] = label ? [1, 3, 5].map((at) => parseInt(label.colour.slice(at, at + 2), 16)) : [0, 0, 0];
      found.R.push(red);
      found.G.push(green);
      found.B.push(blue);
      found.A.push(label?.visible ? Math.round(255 * label.opacity) : 0);
      found.I.push(value);
      found.labels.push(label?.name ?? "");
    }
    return found;
  }

  changed() {
    const { look } = this.context;
    [this.image.cal_min, this.image.cal_max] = look.window;
    if (this.image.frame4D !== look.channel) this.nv.setFrame4D(this.image.id, look.channel);
    this.mask.setColormapLabel(this.table());
    this.nv.setSliceType(LAYOUTS[look.layout] ?? LAYOUTS.all);
    this.nv.updateGLVolume();
    this.showUncertainty(look.uncertainty).catch(this.context.fail);
  }

  async showUncertainty(on) {
    if (!on && !this.map) return;
    if (on && !this.map) {
      this.map = "coming";
      const { job, signal } = this.context;
      this.map = await volume(await buffer(`predictions/${job.id}/uncertainty`, signal), "uncertainty.nii.gz", "warm", [0.05, 1], 0);
      this.nv.addVolume(this.map);
    }
    if (this.map === "coming") return;
    this.nv.setOpacity(this.nv.getVolumeIndexByID(this.map.id), this.context.look.uncertainty ? 0.7 : 0);
  }

  where(found) {
    const value = found.values?.[0]?.value;
    const label = this.context.look.labels.get(Math.round(found.values?.[1]?.value ?? 0))?.name;
    const mm = this.context.result.view.affine ? [...found.mm].slice(0, 3) : null;
    return placeText({ mm, index: [...found.vox].slice(0, 3), value, label });
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
    this.nv.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    this.nv.cleanup?.();
    this.canvas.remove();
  }
}

function volume(data, name, colours, [low, high], frame) {
  return NVImage.new(data, name, colours, 1, null, low, high, true, 0.02, false, false, "", frame);
}
