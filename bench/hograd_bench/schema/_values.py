"""Names, versions and kinds of value of a row, and how a message shows a value."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from hograd_bench.cells import Cell
from hograd_bench.metrics import metrics
from hograd_bench.schema._json import SchemaError

SCHEMA = 2
"""Version of the row. Raise it with any change of meaning and add the step to ``schema/_migrations.py``."""

ENVIRONMENT_SCHEMA = 1
"""Version of environment.json."""

STATUSES = ("ok", "unverified", "unsupported", "skipped", "wrong", "failed", "oom", "timeout", "crashed")
"""How a cell may end; "unverified": it was run, and truth is in doubt."""

NOT_ASKED = "not asked for"
"""Reason of a metric that is missing because the run was not to measure it."""

CELL_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(Cell))
TEXT_FIELDS = ("operator", "method", "problem", "dtype", "device", "preparation")
COUNT_FIELDS = ("n", "order", "depth", "batch", "threads")
FIELDS = (
    "schema", "run", "cell", *CELL_FIELDS, "numel", "status", "reason", "started", "wall_seconds",
    "metrics", "missing", "details",
)  # fmt: skip
FIELD_SET = frozenset(FIELDS)
RESERVED = FIELD_SET | {"machine", "line"}

WIDEST = 2**63
"""Integers from here on are refused: no count or byte figure is that large, but a damaged one may be."""

COUNTED = frozenset(name for name, record in metrics().items() if record.nonnegative)
"""Metrics that are never negative: a row where one is was damaged."""

Row = dict[str, Any]
"""A row as plain JSON types; :func:`row` and :func:`validate` are the two ways to have one."""


def text(value: str) -> str:
    """Text that every encoder takes: lone surrogates become U+FFFD."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def visible(value: str) -> str:
    r"""Text in which control characters can be seen, as ``\x1b``, and do nothing; newlines and tabs stay."""
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in value)


def nonempty(value: Any, name: str) -> str:
    """The value, which is text, and some."""
    if not isinstance(value, str) or not value or text(value) != value:
        raise SchemaError(f"{name}: got {shown(value)}, expected text")
    return value


def integer(value: Any, name: str, minimum: int) -> None:
    """Refuse what is no count from ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value < WIDEST:
        raise SchemaError(f"{name}: got {shown(value)}, expected an integer from {minimum}")


def number(value: Any, name: str) -> float:
    """The value, which is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SchemaError(f"{name}: got {kind(value)}, expected a number or null")
    if (isinstance(value, int) and abs(value) >= WIDEST) or not math.isfinite(value):
        raise SchemaError(f"{name}: got {shown(value)}, expected a finite number")
    return value


def kind(value: Any) -> str:
    """What kind of JSON value it is, for a message."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else kinds.get(type(value), f"a {type(value).__name__}")


def shown(value: Any) -> str:
    """A value for a message: short, on one line, whatever it is."""
    if isinstance(value, int) and abs(value) >= WIDEST:
        return f"an integer of {value.bit_length()} bits"
    told = repr(value)
    return told if len(told) <= 60 else told[:57] + "..."
