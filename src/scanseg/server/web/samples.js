// The picture of held-out patches of a training, fetched anew with every epoch.

import { bytes, pause } from "./api.js";
import { el } from "./dom.js";
import { t } from "./texts.js";

// Epochs may be shorter.
const EVERY_MS = 3000;

/**
 * Returns a section, hidden while there is no picture, and a function that keeps it up to date.
 * @param {AbortSignal} signal Ends it and frees the picture.
 */
export function samples(signal) {
  const picture = el("img.samples");
  const node = el("section.card", { "aria-labelledby": "samples-title", hidden: true },
    el("h2", { id: "samples-title", text: t("samplesTitle") }),
    el("p.small", { text: t("samplesText") }), picture);
  let wanted = null;
  let shown = null;
  let running = false;
  const show = (blob) => {
    const before = picture.src;
    picture.src = URL.createObjectURL(blob);
    if (before) URL.revokeObjectURL(before);
    node.hidden = false;
  };
  const fetchAll = async () => {
    while (wanted.key !== shown && !signal.aborted) {
      const { key, path } = wanted;
      const { blob } = await bytes(path, signal);
      if (signal.aborted) return;
      show(blob);
      shown = key;
      await pause(EVERY_MS, signal);
    }
  };
  signal.addEventListener("abort", () => picture.src && URL.revokeObjectURL(picture.src));
  return {
    node,
    /** Takes the state of the training; where fetching fails, the next state tries again. */
    async update(training) {
      if (!training.links.samples) return;
      picture.alt = t("samplesAlt", { labels: training.labels.join(", ") });
      wanted = { key: `${training.epoch} ${training.started}`, path: training.links.samples };
      if (running) return;
      running = true;
      await fetchAll().catch(() => {});
      running = false;
    },
  };
}
