// The same prediction as a command, with curl and in Python, each with a button that copies it.

import { get } from "./api.js";
import { announce, copy, el, put } from "./dom.js";
import { problemBox } from "./problem.js";
import { t } from "./texts.js";

const KINDS = ["cli", "curl", "python"];

/**
 * Returns the box: `node` and `update`.
 * @param {function} what Returns path and options of the route that words the snippets.
 * @param {AbortSignal} signal
 */
export function snippetBox(what, signal) {
  const code = el("pre", { tabindex: "0", id: "snippet", role: "tabpanel", "aria-labelledby": "snippet-cli" });
  const said = el("div");
  let texts = {};
  let chosen = "cli";
  let timer = 0;
  const tabs = KINDS.map((kind) => el("button", { type: "button", role: "tab", id: `snippet-${kind}`, "aria-controls": "snippet", text: t(`snippet_${kind}`), on: {
    click: () => choose(kind),
    keydown: (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const next = (KINDS.indexOf(kind) + step + KINDS.length) % KINDS.length;
      choose(KINDS[next]);
      tabs[next].focus();
    },
  } }));
  const button = el("button", { type: "button", text: t("copy"), on: { click: async () => {
    const worked = await copy(texts[chosen] ?? "");
    button.textContent = t(worked ? "copied" : "copyFailed");
    announce(button.textContent);
    setTimeout(() => { button.textContent = t("copy"); }, 2000);
  } } });

  function choose(kind) {
    chosen = kind;
    tabs.forEach((tab, index) => {
      tab.setAttribute("aria-selected", String(KINDS[index] === kind));
      tab.tabIndex = KINDS[index] === kind ? 0 : -1;
    });
    code.setAttribute("aria-labelledby", `snippet-${kind}`);
    code.textContent = texts[kind] ?? "";
  }

  async function load() {
    const [path, options] = what();
    const query = new URLSearchParams();
    for (const [key, value] of Object.entries(options)) if (value !== null) query.set(key, String(value));
    try {
      texts = await get(`${path}?${query}`, signal);
      put(said);
      choose(chosen);
    } catch (error) {
      if (error.name !== "AbortError") put(said, problemBox(error));
    }
  }

  choose("cli");
  return {
    node: el("div.snippets", {}, el("div.row", {}, el("div.tabs", { role: "tablist", "aria-label": t("same") }, tabs), button), said, code),
    /** Asks anew, a moment after the last change. */
    update() {
      clearTimeout(timer);
      timer = setTimeout(load, 150);
    },
  };
}
