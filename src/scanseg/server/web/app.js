// Start, routes and what is on every page. Routes stand behind `#`: they never reach the server or its logs.

import { get, hasToken, Problem, setToken } from "./api.js";
import { show as showCase } from "./case.js";
import { announce, el, put } from "./dom.js";
import { show as showEvaluate } from "./evaluate.js";
import { show as showHistory } from "./history.js";
import { show as showNew } from "./new.js";
import { problemBox } from "./problem.js";
import { t } from "./texts.js";
import { show as showTrainings } from "./trainings.js";

const main = document.getElementById("main");
const THEMES = ["auto", "light", "dark"];
let leave = () => {};
let facts = null;
let shown = false;

/** Returns `/api/v1/version`, asked for once. */
async function version() {
  facts ??= await get("version");
  return facts;
}

const PAGES = {
  "": { title: "newTitle", show: showNew },
  cases: { title: "caseTitle", show: showCase },
  evaluate: { title: "evaluateTitle", show: showEvaluate },
  history: { title: "historyTitle", show: showHistory },
  trainings: { title: "trainingsTitle", show: showTrainings },
};

/** Tells whether the server has models; one without them only shows trainings. */
function hasModels() {
  return !facts || Object.keys(facts.devices).length > 0;
}

/** Shows the page that the address names. */
async function show() {
  leave();
  const controller = new AbortController();
  leave = () => controller.abort();
  const [named = "", id = ""] = location.hash.replace(/^#\/?/, "").split("/");
  const root = el("div.page");
  put(main, root);
  // What had the focus is gone: go on from the top of the new page.
  if (shown) main.focus({ preventScroll: true });
  shown = true;
  const context = { root, id, signal: controller.signal, fail: (error) => fail(root, error, controller.signal) };
  const name = () => (named && Object.hasOwn(PAGES, named) ? named : hasModels() ? "" : "trainings");
  entitle(name());
  try {
    context.version = await version();
    if (controller.signal.aborted) return;
    entitle(name());
    await PAGES[name()].show(context);
  } catch (error) {
    context.fail(error);
  }
}

function fail(root, error, signal) {
  if (error.name === "AbortError" || signal.aborted) return;
  if (error instanceof Problem && error.status === 401) put(root, tokenForm(hasToken() ? error : null));
  else put(root, problemBox(error, { again: show }));
}

/** The form for the token; its field is one that password managers know. */
function tokenForm(problem) {
  const field = el("input", { type: "password", name: "password", id: "token", autocomplete: "current-password", required: true });
  const form = el(
    "form.card.narrow", { "aria-labelledby": "token-title" },
    el("h1", { id: "token-title", text: t("tokenTitle") }),
    el("p", { text: t("tokenText") }),
    problem && problemBox(problem),
    el("input.hidden", { type: "text", name: "username", autocomplete: "username", value: "scanseg", tabindex: "-1", "aria-hidden": "true" }),
    el("label", { for: "token", text: t("token") }), field,
    el("button.primary", { type: "submit", text: t("tokenUse") }),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(field.value);
    show();
  });
  return form;
}

/** Names the page in the window's title and among the links; trainings have a link where some are watched. */
function entitle(name) {
  document.title = `${t(PAGES[name].title)} - scanseg`;
  const shown = [...(hasModels() ? ["", "history", "evaluate"] : []), ...(facts?.trainings ? ["trainings"] : [])];
  const links = shown.map((page) => el("a", { href: `#/${page}`, text: t(PAGES[page].title), "aria-current": page === name ? "page" : null }));
  put(document.getElementById("nav"), links);
}

// -- light and dark --------------------

/** Returns the choice of the last visit; browsers may keep nothing. */
function keptTheme() {
  try {
    const found = localStorage.getItem("scanseg-theme");
    return THEMES.includes(found) ? found : "auto";
  } catch {
    return "auto";
  }
}

function paintTheme(name) {
  document.documentElement.dataset.theme = name;
}

function tools() {
  const choice = el("select", { "aria-label": t("theme"), on: { change: () => {
    paintTheme(choice.value);
    try {
      localStorage.setItem("scanseg-theme", choice.value);
    } catch {
      // Then it holds for this visit.
    }
  } } }, THEMES.map((name) => el("option", { value: name, text: t(`theme_${name}`) })));
  choice.value = keptTheme();
  const keys = el("button.quiet", { type: "button", text: t("keys"), on: { click: showKeys } });
  put(document.getElementById("tools"), keys, choice);
}

function showKeys() {
  const rows = t("keyList").split("\n").map((line) => {
    const [, key, text] = /^([^:]+): (.*)$/.exec(line);
    return el("tr", {}, el("td", {}, key.split(" ").map((one) => el("kbd", { text: one }))), el("td", { text }));
  });
  const dialog = el("dialog", { "aria-label": t("keys") },
    el("h2", { text: t("keys") }), el("table.plain", {}, el("tbody", {}, rows)),
    el("form.row.end", { method: "dialog" }, el("button", { type: "submit", text: t("close"), autofocus: true })));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

// -- start --------------------

/** Takes the token from `#token=...` and removes it from the address bar and from the history. */
function takeToken() {
  const found = /^#token=([^&]+)$/.exec(location.hash);
  if (!found) return;
  setToken(decodeURIComponent(found[1]));
  history.replaceState(null, "", `${location.pathname}#/`);
}

takeToken();
paintTheme(keptTheme());
tools();
const skip = document.getElementById("skip");
skip.textContent = t("skip");
skip.addEventListener("click", () => main.focus());
// An address with a new token may be pasted into an open page.
window.addEventListener("hashchange", () => {
  takeToken();
  announce("");
  show();
});
// A file that misses the drop zone must not replace the page.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
window.addEventListener("beforeunload", (event) => {
  if (document.documentElement.dataset.uploading) event.preventDefault();
});
show();


