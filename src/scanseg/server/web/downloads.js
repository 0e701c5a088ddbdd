// Everything that a prediction made, to take along.

import { bytes, get } from "./api.js";
import { csv } from "./csv.js";
import { announce, el, put, save } from "./dom.js";
import { size, sizeOf } from "./format.js";
import { problemBox } from "./problem.js";
import { t } from "./texts.js";

/** Returns the list of files. */
export function downloads(job, result, version, signal) {
  const base = `/api/v1/predictions/${job.id}`;
  const said = el("div");
  const volume = result.view.kind === "volume";
  const formats = (names) => names.map((name) => el("option", { value: name, text: name }));
  const mask = el("select", { "aria-label": t("maskFormat") }, el("option", { value: "", text: t("asInput") }), formats(version.mask_formats));
  const image = el("select", { "aria-label": t("imageFormat") }, formats(version.mask_formats.filter((name) => name !== "png")));
  const present = result.labels.filter((label) => label.voxels);
  const label = el("select", { "aria-label": t("meshLabel") }, present.map((one) => el("option", { value: one.value, text: one.name })));
  const kind = el("select", { "aria-label": t("meshFormat") }, formats(["stl", "glb"]));

  const take = (id, name, path, ...extra) => {
    const button = el("button", { type: "button", id: `get-${id}`, text: name, on: { click: async () => {
      button.disabled = true;
      put(said);
      try {
        await path();
        announce(t("downloaded", { name }));
      } catch (error) {
        if (error.name !== "AbortError") put(said, problemBox(error));
      }
      button.disabled = false;
    } } });
    return el("li", {}, button, ...extra);
  };
  const file = (path) => async () => {
    const found = await bytes(path(), signal);
    save(found.blob, found.name);
  };
  const sized = (key) => (result.files[key]?.bytes ? el("span.num.small", { text: size(result.files[key].bytes) }) : null);
  const maps = Object.keys(result.files).filter((key) => key.startsWith("probabilities/"));
  return el("div", {}, el("ul.downloads", {},
    take("zip", t("getAll"), file(() => `${base}/all.zip`)),
    take("mask", t("getMask"), file(() => `${base}/mask${mask.value ? `?format=${mask.value}` : ""}`), mask, sized("mask")),
    take("image", t("getImage"), file(() => `${base}/image?format=${image.value}`), image),
    take("report", t("getReport"), file(() => `${base}/report.html`)),
    take("report-pdf", t("getReportPdf"), file(() => `${base}/report.pdf`)),
    take("csv", t("getCsv"), async () => save(new Blob([table(result)], { type: "text/csv" }), `${job.id}_measures.csv`)),
    take("json", t("getJson"), async () => save(new Blob([`${JSON.stringify(await get(`${base}/result`, signal), null, 2)}\n`], { type: "application/json" }), `${job.id}_result.json`)),
    result.files.uncertainty && take("uncertainty", t("getUncertainty"), file(() => `${base}/uncertainty`), sized("uncertainty")),
    maps.map((key) => take(key.replace("/", "-"), t("getProbability", { name: nameOf(result, key) }), file(() => `${base}/${key}`), sized(key))),
    volume && present.length > 0 && take("mesh", t("getMesh"), file(() => `${base}/mesh/${label.value}?format=${kind.value}`), label, kind)), said);
}

function nameOf(result, key) {
  const value = Number(key.split("/")[1]);
  return result.labels.find((label) => label.value === value)?.name ?? key;
}

/** Returns the measurements as CSV. */
function table(result) {
  const head = ["value", "name", "size", "unit", "voxels", "components", "largest", "score", "uncertainty", "training_low", "training_high", "training_cases", "percentile"];
  const rows = result.labels.map((label) => {
    const { value, unit, largest } = sizeOf(label);
    const known = label.training ?? {};
    return [label.value, label.name, value, unit, label.voxels, label.components, largest, label.score, label.uncertainty, known.low, known.high, known.cases, known.percentile];
  });
  return csv([head, ...rows]);
}
