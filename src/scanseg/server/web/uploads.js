// Uploads that go on while the page shows something else.

import { send, upload } from "./api.js";

const running = new Map();
// One upload at a time: several would only share the line, and the first case would start later.
let line = Promise.resolve();
const listeners = new Set();

/** Returns what is known of the upload of a prediction: `{fraction, problem}`, or undefined. */
export function uploadOf(id) {
  return running.get(id);
}

/** Calls `listener(id)` at every change until the signal ends it. */
export function onUpload(listener, signal) {
  listeners.add(listener);
  signal.addEventListener("abort", () => listeners.delete(listener));
}

/** Stops the upload of a prediction. */
export function stopUpload(id) {
  running.get(id)?.controller.abort();
  end(id);
}

function tell(id) {
  if ([...running.values()].some((one) => !one.problem)) document.documentElement.dataset.uploading = "yes";
  else delete document.documentElement.dataset.uploading;
  for (const listener of listeners) listener(id);
}

function end(id) {
  running.delete(id);
  tell(id);
}

/** Returns a key that makes a repeated order the same order. */
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Orders a prediction; with files their upload begins.
 * @param {object} order Body of `POST /predictions`, without `inputs`.
 * @param {File[]} files One per channel, or one archive.
 * @returns {Promise<object>} The prediction.
 */
export async function order(order, files) {
  const body = files.length ? { ...order, inputs: files.map((file) => ({ name: file.name })) } : order;
  const prediction = await send("POST", "predictions", body, { "Idempotency-Key": newKey() });
  if (files.length) resume(prediction, files.map((file, index) => [String(index), file]));
  return prediction;
}

/** Uploads inputs of a prediction, `[slot, file]` each, after those that wait already. */
export function resume(prediction, pairs) {
  const state = { fraction: 0, problem: null, controller: new AbortController() };
  running.set(prediction.id, state);
  tell(prediction.id);
  const total = pairs.reduce((sum, [, file]) => sum + file.size, 0) || 1;
  const whole = async () => {
    let before = 0;
    if (state.controller.signal.aborted) return;
    for (const [slot, file] of pairs) {
      await upload(`/api/v1/predictions/${prediction.id}/inputs/${slot}`, file, (loaded) => {
        state.fraction = (before + loaded) / total;
        tell(prediction.id);
      }, state.controller.signal);
      before += file.size;
    }
    end(prediction.id);
  };
  line = line.then(whole).catch((error) => {
    if (error.name === "AbortError") return;
    state.problem = error;
    tell(prediction.id);
  });
}
