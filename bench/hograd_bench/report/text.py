"""Numbers and names as a reader wants them. Whatever comes in, what goes out is one line of text."""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from typing import Any

from hograd_bench import metrics, units

ALIASES = {
    ("derivative_tensor", 2): "Hessian", ("derivative_vector_product", 2): "Hessian-vector product",
    ("derivative_tensor", 1): "gradient as a tensor",
}  # fmt: skip

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
_END = re.compile(r"(?<!E\.g)[.;](?= )")

# Control characters, and marks that turn the direction of what follows.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def visible(text: str) -> str:
    """Text in which characters that would hide or reorder others are replaced by U+FFFD."""
    return _UNSEEN.sub("\ufffd", text)


def labels() -> dict[str, str]:
    """The metrics with a column of their own in the table of cells, and what it is called: times first."""
    named = [m for m in metrics.known().values() if m.label]
    return {
        m.name: m.label for m in sorted(named, key=lambda m: (m.kind == "ratio" and m.deterministic, m.deterministic))
    }


def metric(name: str, value: Any) -> str:
    """A metric's value with its unit, or its text on one line."""
    return clean(value, 200) if isinstance(value, str) else units.metric(name, value)


@functools.cache
def _names() -> re.Pattern[str]:
    """Columns of results: only those that no word of a sentence can be."""
    found = sorted((name for name in metrics.known() if "_" in name), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, found))})\b")


# Sizes as sentences give them; what is joined to a path or a list without a space is a cell's id.
_SIZE = re.compile(r"(?<![\w/])([nTBk]) ?= ?(\d+)(?!\d|,\w|\.\d)")
_UP_TO = re.compile(r"(?<= to )\d{5,}(?!\d|\.\d)")


def in_words(sentence: str) -> str:
    """A sentence as readers want it.

    Metrics are called ``peak bytes`` and ``gradients`` in place of their columns, sizes are ``n = 16,384``.
    """
    known = metrics.known()

    def named(found: re.Match[str]) -> str:
        label = known[found[0]].label or found[0].replace("_", " ")
        return f"{label} bytes" if known[found[0]].unit == "B" and "bytes" not in label else label

    sized = _SIZE.sub(lambda found: f"{found[1]} = {int(found[2]):,}", _names().sub(named, sentence))
    return _UP_TO.sub(lambda found: f"{int(found[0]):,}", sized)


def is_number(value: Any) -> bool:
    """Whether there is a value: a number that is neither NaN nor infinite."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def is_moment(value: Any) -> bool:
    """Whether it is a time in ISO form."""
    return isinstance(value, str) and _MOMENT.match(value) is not None


def minute(moment: Any) -> str:
    """A time in ISO form to the minute, in UTC as it was recorded; of anything else as much as fits."""
    kept = clean(moment, 40)
    return kept[:16].replace("T", " ") if _MOMENT.match(kept) else clean(kept, 19)


def operator_name(operator: str, order: int | None = None) -> str:
    """The operator in words; at order 2 by the name that everybody uses."""
    return ALIASES.get((operator, order or 0), clean(operator.replace("_", " ")))


def titled(row: Any) -> str:
    """A cell in words: ``Hessian-vector product by double_vjp of sin_chain, n = 16, k = 2, T = 12``."""
    what = f"{operator_name(row['operator'], row['order'])} by {clean(row['method'], 40)}"
    return f"{what} of {clean(row['problem'], 40)}, {sizes(row)}"


def sizes(row: Any) -> str:
    """``n = 8, k = 2, T = 4`` of a row; sizes that are 1 are left out, but for n and the order."""
    parts = [f"n = {row['n']}", f"k = {row['order']}"]
    parts += [f"{symbol} = {row[name]}" for name, symbol in (("depth", "T"), ("batch", "B")) if row[name] != 1]
    return ", ".join(parts)


def threads(count: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} thread{'' if count == 1 else 's'}"


def clean(text: Any, limit: int = 60) -> str:
    """Text on one line, without control characters, no longer than ``limit``: fit for a label in a figure."""
    kept = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in str(text)[: 4 * limit])
    kept = " ".join(kept.split())
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def gist(text: str, limit: int) -> str:
    """The beginning of some sentences: whole ones where one fits, else cut between words."""
    kept = clean(text, 4 * limit)
    if len(kept) <= limit:
        return kept
    ends = [m.start() for m in _END.finditer(kept, 0, limit)]
    if ends and ends[-1] > limit // 3:
        return kept[: ends[-1] + 1].rstrip(";")
    words = kept[:limit].rpartition(" ")[0].rstrip(",;:")
    return f"{words} …" if words else clean(kept, limit)
