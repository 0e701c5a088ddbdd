// From a heap of files to cases: one file per channel of the model.

const NUMBER = /[_-](\d{4})$/;

/** Returns the accepted ending of a name, or "". */
export function endingOf(name, formats) {
  const lower = name.toLowerCase();
  return [...formats].sort((a, b) => b.length - a.length).find((ending) => lower.endsWith(`.${ending}`)) ?? "";
}

/**
 * Returns cases `{name, files}`; `files` has a place per channel, null where one is missing.
 *
 * Files of one case share a name up to `_0000`, `_0001`, as in nnU-Net; without such numbers a case takes as many
 * files as there are channels, in the order of their names. An archive is a case of its own.
 */
export function groupFiles(files, channels, formats) {
  const sorted = [...files].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  if (channels === 1) return sorted.map((file) => ({ name: file.name, files: [file] }));
  const cases = [];
  const byStem = new Map();
  const loose = [];
  for (const file of sorted) {
    const ending = endingOf(file.name, formats);
    const stem = file.name.slice(0, file.name.length - ending.length - 1);
    const found = NUMBER.exec(stem);
    if (ending === "zip") cases.push({ name: file.name, files: [file], archive: true });
    else if (found && Number(found[1]) < channels) {
      const name = stem.slice(0, found.index);
      if (!byStem.has(name)) byStem.set(name, { name, files: Array(channels).fill(null) });
      byStem.get(name).files[Number(found[1])] = file;
    } else loose.push(file);
  }
  cases.push(...byStem.values());
  for (let start = 0; start < loose.length; start += channels) {
    const part = loose.slice(start, start + channels);
    cases.push({ name: part[0].name, files: [...part, ...Array(channels - part.length).fill(null)] });
  }
  return cases;
}

/** Returns whether a case has all that it needs. */
export function isComplete(one) {
  return one.files.every(Boolean);
}

/** Returns the files of a drop; folders are read to the bottom. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const found = [];
  for (const entry of entries) await collect(entry, found);
  return found;
}

/** Gives the files that are dropped on an element to `take`; the element is lit while they hang over it. */
export function acceptDrops(zone, take) {
  const light = (on) => (event) => {
    event.preventDefault();
    zone.classList.toggle("over", on);
  };
  zone.addEventListener("dragover", light(true));
  zone.addEventListener("dragleave", light(false));
  zone.addEventListener("drop", async (event) => {
    light(false)(event);
    take(await droppedFiles(event.dataTransfer));
  });
}

async function collect(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    if (!file.name.startsWith(".")) found.push(file);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A reader gives at most some hundred entries at once.
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return;
    for (const one of part) await collect(one, found);
  }
}
