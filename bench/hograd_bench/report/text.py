"""Numbers and names as a reader wants them. Whatever comes in, what goes out is one line of text."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

LABELS = {
    "seconds_min": "time", "gradient_equivalents": "gradients", "peak_bytes": "peak", "total_bytes": "total",
    "allocations": "allocations", "aten_calls": "ATen calls", "relative_error": "rel. error",
}  # fmt: skip
ALIASES = {
    ("derivative_tensor", 2): "Hessian", ("derivative_vector_product", 2): "Hessian-vector product",
    ("derivative_tensor", 1): "gradient as a tensor",
}  # fmt: skip


# Control characters, and marks that turn the direction of what follows.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def visible(text: str) -> str:
    """Text in which characters that would hide or reorder others are replaced by U+FFFD."""
    return _UNSEEN.sub("\ufffd", text)


def seconds(value: float) -> str:
    """Seconds with three figures and a unit that reads."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= scale * 0.9995:
            return f"{_figures(value / scale)} {unit}"
    return f"{_figures(value / 1e-9)} ns"


def joules(value: float) -> str:
    """Joules with three figures and a unit that reads."""
    return seconds(value).removesuffix("s") + "J"


def binary(value: float) -> str:
    """Bytes exactly below 10 KiB, then with three figures and a unit; whole KiB as such."""
    if abs(value) < 10 * 2**10 and (value % 2**10 or not value):
        return f"{value:.0f} B"
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if abs(value) >= scale:
            return f"{_figures(value / scale)} {unit}"
    return f"{_figures(value / 2**10)} KiB"


def plain(value: float) -> str:
    """Whole numbers in full up to a million, others with three figures."""
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def metric(name: str, value: Any) -> str:
    """A metric's value with its unit, known by the metric's name."""
    if isinstance(value, str):
        return clean(value, 200)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if "bytes" in name and not name.endswith("_per_s"):
        return binary(float(value))
    if "seconds" in name:
        return seconds(float(value))
    if "joules" in name:
        return joules(float(value))
    return plain(float(value))


def is_number(value: Any) -> bool:
    """Whether there is a value: a number that is neither NaN nor infinite."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def operator_name(operator: str, order: int | None = None) -> str:
    """The operator in words; at order 2 by the name that everybody uses."""
    return ALIASES.get((operator, order or 0), clean(operator.replace("_", " ")))


def sizes(row: Any) -> str:
    """``n = 8, k = 2, T = 4`` of a row; sizes that are 1 are left out, but for n and the order."""
    parts = [f"n = {row['n']}", f"k = {row['order']}"]
    parts += [f"{symbol} = {row[name]}" for name, symbol in (("depth", "T"), ("batch", "B")) if row[name] != 1]
    return ", ".join(parts)


def threads(count: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} thread{'' if count == 1 else 's'}"


def times(ratio: float) -> str:
    """A ratio such as ``1.4×``; near 1 with a digit more, for there it matters."""
    return f"{ratio:.4g}×" if 0.9 < ratio < 1.1 else f"{_figures(ratio)}×"


def clean(text: Any, limit: int = 60) -> str:
    """Text on one line, without control characters, no longer than ``limit``: fit for a label in a figure."""
    kept = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in str(text)[: 4 * limit])
    kept = " ".join(kept.split())
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def _figures(value: float) -> str:
    """Three significant figures without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e7:
        return f"{value:.3g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(decimals, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
