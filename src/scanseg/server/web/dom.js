// Elements made with DOM calls only: no markup is parsed, so no text can become markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Returns an element.
 * @param {string} tag Name, optionally with classes: "div.row.wide".
 * @param {object} [props] Attributes; `on` maps events to handlers, `text` is its text; false and null are left out.
 * @param {...(Node|string|null|false)} children
 */
export function el(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name);
  if (classes.length) node.classList.add(...classes);
  fill(node, props);
  node.append(...children.flat().filter((child) => child !== null && child !== false && child !== undefined));
  return node;
}

/** Returns an SVG element; as `el`. */
export function svg(name, props = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  fill(node, props);
  node.append(...children.filter(Boolean));
  return node;
}

function fill(node, props) {
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else if (key === "text") node.textContent = value;
    else if (key === "value" || key === "checked" || key === "disabled" || key === "multiple") node[key] = value;
    else if (key === "webkitdirectory") node.webkitdirectory = true;
    else node.setAttribute(key, value === true ? "" : String(value));
  }
}

/** Replaces what is in a node. */
export function put(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== false && child !== undefined));
  return node;
}

const PATHS = {
  eye: ["M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8Z", "M8 6a2 2 0 1 0 0 4 2 2 0 0 0 0-4Z"],
  hidden: ["M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8Z", "M2.5 13.5l11-11"],
  camera: ["M2 5h2.5l1-1.5h5L11.5 5H14v8H2Z", "M8 6.5a2.3 2.3 0 1 0 0 4.6 2.3 2.3 0 0 0 0-4.6Z"],
  left: ["M10 3 5 8l5 5"],
  right: ["M6 3l5 5-5 5"],
  target: ["M8 1.5v4M8 10.5v4M1.5 8h4M10.5 8h4"],
  close: ["M4 4l8 8M12 4l-8 8"],
  upload: ["M8 11V3M4.5 6.5 8 3l3.5 3.5M2.5 13.5h11"],
};

/** Returns a small line drawing, hidden from screen readers. */
export function icon(name) {
  const lines = PATHS[name].map((d) =>
    svg("path", { d, fill: "none", stroke: "currentColor", "stroke-width": "1.4", "stroke-linecap": "round", "stroke-linejoin": "round" }),
  );
  return svg("svg", { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true", class: "icon" }, ...lines);
}

/** Tells screen readers something. */
export function announce(text) {
  const live = document.getElementById("live");
  if (live.textContent !== text) live.textContent = text;
}

/** Saves bytes as a file of the user. */
export function save(blob, name) {
  const href = URL.createObjectURL(blob);
  const link = el("a", { href, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(href), 60000);
}

/** Copies text; also where the page is not served over TLS, where the clipboard interface is missing. */
export async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Not permitted: the older way below may be.
    }
  }
  const area = el("textarea", { value: text, class: "hidden", "aria-hidden": "true" });
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

/** Asks a question in a dialog; resolves to true for yes. */
export function ask(question, yes, no) {
  return new Promise((resolve) => {
    const dialog = el("dialog", { "aria-label": question });
    const answer = (value) => () => {
      dialog.close();
      dialog.remove();
      resolve(value);
    };
    dialog.append(
      el("p", { text: question }),
      el("div.row.end", {}, el("button", { type: "button", text: no, autofocus: true, on: { click: answer(false) } }),
        el("button.danger", { type: "button", text: yes, on: { click: answer(true) } })),
    );
    dialog.addEventListener("cancel", answer(false));
    document.body.append(dialog);
    dialog.showModal();
  });
}
