// The only file that talks to the server. Paths are always of this origin; the token is kept in memory.

import { t } from "./texts.js";

const BASE = "/api/v1";
let token = "";

/** A refusal or failure: `code`, one sentence in `detail`, what to do in `hint`. */
export class Problem extends Error {
  constructor({ code, detail, hint = "", status = 0, id = null, retry = 0 }) {
    super(detail);
    Object.assign(this, { code, detail, hint, status, id, retry });
  }
}

export function setToken(text) {
  token = text.trim();
}

export function hasToken() {
  return token !== "";
}

function headers(extra = {}) {
  return token ? { ...extra, Authorization: `Bearer ${token}` } : extra;
}

function unreachable() {
  return new Problem({ code: "E-PAGE-NETWORK", detail: t("offline"), hint: t("offlineHint") });
}

function problemFrom(status, text, retry = 0) {
  try {
    const found = JSON.parse(text);
    if (found && found.code && found.detail) return new Problem({ ...found, status, retry });
  } catch {
    // No problem document: told below.
  }
  return new Problem({ code: "E-PAGE-ANSWER", detail: t("strange", { status }), hint: t("offlineHint"), status });
}

async function answer(path, options = {}) {
  let found;
  try {
    found = await fetch(path.startsWith("/") ? path : `${BASE}/${path}`, {
      ...options, headers: headers(options.headers), credentials: "omit", cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (!found.ok) throw problemFrom(found.status, await found.text(), Number(found.headers.get("Retry-After") || 0));
  return found;
}

/** Returns the JSON of an answer, null where there is none. */
export async function get(path, signal) {
  return (await answer(path, { signal })).json();
}

/** Sends JSON and returns the JSON of the answer. */
export async function send(method, path, body, extra = {}) {
  const found = await answer(path, {
    method,
    headers: body === undefined ? extra : { "Content-Type": "application/json", ...extra },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return found.status === 204 ? null : found.json();
}

/** Returns bytes and the name that the server gives them. */
export async function bytes(path, signal) {
  const found = await answer(path, { signal });
  const name = /filename="([^"]+)"/.exec(found.headers.get("Content-Disposition") || "");
  return { blob: await found.blob(), name: name ? name[1] : path.split("/").pop().split("?")[0] };
}

/** Uploads a file; `XMLHttpRequest`, because `fetch` cannot tell how far an upload is. */
export function upload(path, file, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", path);
    for (const [name, value] of Object.entries(headers({ "Content-Type": "application/octet-stream" }))) {
      request.setRequestHeader(name, value);
    }
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded, event.total));
    request.addEventListener("load", () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(problemFrom(request.status, request.responseText));
    });
    request.addEventListener("error", () => reject(unreachable()));
    request.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

/**
 * Yields the states of a job until it is final. A broken stream is opened again, more slowly each time.
 * @param {string} id
 * @param {AbortSignal} signal
 */
export async function* watch(id, signal) {
  for (let failures = 0; ; ) {
    let found;
    try {
      for await (const state of stream(`predictions/${id}/events`, signal)) {
        failures = 0;
        found = state;
        yield state;
      }
      if (found && ["done", "failed", "cancelled"].includes(found.state)) return;
    } catch (error) {
      if (error.name === "AbortError" || [401, 403, 404].includes(error.status)) throw error;
    }
    failures += 1;
    await pause(Math.min(15000, 500 * 2 ** failures), signal);
    yield await get(`predictions/${id}`, signal).catch((error) => {
      if (error.name === "AbortError" || failures > 8 || [401, 404].includes(error.status)) throw error;
      return { state: "unreachable" };
    });
  }
}

/** Yields the data of an event stream until it ends. */
export async function* stream(path, signal) {
  const found = await answer(path, { signal });
  const reader = found.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = /^data: (.*)$/m.exec(event);
      if (event.startsWith("event: gone")) throw new Problem({ code: "E-SERVE-UNKNOWN", detail: t("gone"), status: 404, ...JSON.parse(data?.[1] ?? "{}") });
      if (data) yield JSON.parse(data[1]);
    }
  }
}

/** Waits; rejects when it is called off. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("", "AbortError"));
    });
  });
}
