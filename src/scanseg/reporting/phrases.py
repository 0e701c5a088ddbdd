"""Values as a reader of the report wants to see them."""

import math
from collections.abc import Mapping
from typing import Any


def spread_text(values: Any, unit: str = "") -> str:
    """Returns the median of sizes with their range, from `min median max` lists; empty without them."""
    if not isinstance(values, Mapping) or not values.get("median"):
        return ""
    low, middle, high = (times(values.get(key)) for key in ("min", "median", "max"))
    text = middle if low == high else f"median {middle}, from {low} to {high}"
    return f"{text} {unit}".strip()


def value_text(key: str, value: Any) -> str:
    """Returns a value of a plan or recipe in words; `key` decides how sizes are written."""
    if key == "memory_bytes" and isinstance(value, int | float):
        return f"{value / 1e9:.2f} GB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return comma(f"{name} = {value_text('', part)}" for name, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        if value and all(isinstance(part, list | tuple) for part in value):
            return comma(times(part) for part in value)
        if key in ("patch_size", "spacing", "median_shape"):
            return times(value)
        return comma(value_text("", part) for part in value)
    return short_number(value) if isinstance(value, float) else str(value)


def times(values: Any) -> str:
    """Returns for example `40 × 56 × 40`."""
    return " × ".join(short_number(value) for value in values or [])


def short_number(value: Any) -> str:
    """Returns a number with four digits, or all before the point; empty for None."""
    if isinstance(value, int | float) and math.isfinite(value):
        return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e4 else f"{value:.0f}"
    return "" if value is None else str(value)


def comma(parts: Any) -> str:
    """Returns the parts, joined by commas."""
    return ", ".join(str(part) for part in parts)


def unit_power(unit: str) -> str:
    """Returns `mm³` for `mm3`."""
    return unit.replace("2", "²").replace("3", "³")
