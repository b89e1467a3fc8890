"""Numbers with units that read, for every place where somebody reads them; the unit is known by the metric's record."""

from __future__ import annotations

import math
import re
from typing import Any

from hograd_bench.metrics import record


def seconds(value: float) -> str:
    """Seconds with three figures and a unit that reads."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= scale * 0.9995:
            return f"{figures(value / scale)} {unit}"
    return f"{figures(value / 1e-9)} ns"


def joules(value: float) -> str:
    """Joules with three figures and a unit that reads."""
    return seconds(value).removesuffix("s") + "J"


def binary(value: float) -> str:
    """Bytes exactly below 10 KiB, then with three figures and a unit; whole KiB as such."""
    if abs(value) < 10 * 2**10 and (value % 2**10 or not value):
        return f"{value:.0f} B"
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if abs(value) >= scale:
            return f"{figures(value / scale)} {unit}"
    return f"{figures(value / 2**10)} KiB"


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?)?B\s*", re.IGNORECASE)


def to_bytes(size: int | str) -> int:
    """A number of bytes as people write it: ``4096``, ``"40 MiB"``, ``"1.5 GB"``.

    Raises:
        TypeError: neither a whole number nor text.
        ValueError: negative, or text that says no size.
    """
    if isinstance(size, bool) or not isinstance(size, int | str):
        raise TypeError(f'got {size!r}, expected bytes as a whole number, or text such as "40 MiB"')
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if isinstance(size, int) and size >= 0:
        return size
    if found is None:
        raise ValueError(f'got {size!r}, expected bytes >= 0, or text such as "40 MiB"')
    prefix = (found[2] or "").lower()
    power = " kmgt".index(prefix[:1] or " ")
    scale: int = (1024 if prefix.endswith("i") else 1000) ** power
    return round(float(found[1]) * scale)


def plain(value: float) -> str:
    """Whole numbers in full up to a million, others with three figures."""
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def metric(name: str, value: Any) -> str:
    """A metric's value with its unit, known by the metric's record."""
    unit = _unit(name)
    if isinstance(value, bool) or unit == "bool":
        return "yes" if value else "no"
    of = {"B": binary, "s": seconds, "J": joules}.get(unit, plain)
    return of(float(value))


def full(name: str, value: float) -> str:
    """:func:`metric` for a sentence that others recompute: whole numbers, bytes among them, to the last digit."""
    unit = _unit(name)
    return metric(name, value) if unit in ("s", "J") else whole(value) + (" B" if unit == "B" else "")


def _unit(name: str) -> str:
    found = record(name)
    return found.unit if found is not None else "1"


def whole(value: float) -> str:
    """Whole numbers to the last digit, others with six figures."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 2**53 else f"{value:.6g}"


def times(ratio: float) -> str:
    """A ratio such as ``1.4×``; near 1 with a digit more, for there it matters."""
    return f"{ratio:.4g}×" if 0.9 < ratio < 1.1 else f"{figures(ratio)}×"


def figures(value: float) -> str:
    """Three significant figures without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e7:
        return f"{value:.3g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(decimals, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
