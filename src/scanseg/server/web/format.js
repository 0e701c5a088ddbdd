// Numbers, times and sizes as text.

import { t } from "./texts.js";

/** Returns a number with about three significant digits. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "-";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en-GB").replaceAll(",", "\u202f");
  return String(Number(value.toPrecision(digits)));
}

/** Returns a time span as text. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 1) return t("underSecond");
  if (seconds < 90) return t("seconds", { n: Math.round(seconds) });
  if (seconds < 5400) return t("minutes", { n: Math.round(seconds / 60) });
  return t("hours", { n: Number((seconds / 3600).toPrecision(2)) });
}

/** Returns bytes as text. */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const units = ["kB", "MB", "GB"];
  const step = Math.min(units.length, Math.floor(Math.log10(bytes) / 3));
  return `${number(bytes / 1000 ** step)} ${units[step - 1]}`;
}

/** Returns a time of the server as local date and time. */
export function when(stamp) {
  return stamp ? new Date(stamp).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }) : "-";
}

/** Returns the size of a label and its unit, and the same for the largest piece. */
export function sizeOf(label) {
  for (const [key, unit] of [["ml", "ml"], ["mm2", "mm²"], ["px", "px"]]) {
    const value = label[`volume_${key}`] ?? label[`area_${key}`];
    if (value !== undefined) return { value, unit, largest: label[`largest_${key}`] };
  }
  return { value: label.voxels, unit: t("voxels"), largest: null };
}
