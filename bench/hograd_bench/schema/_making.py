"""Rows made from what was measured, and lines of JSON made from rows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from hograd_bench.cells import Cell
from hograd_bench.schema._checking import validate
from hograd_bench.schema._json import SchemaError
from hograd_bench.schema._values import COUNTED, FIELDS, SCHEMA, WIDEST, Row, text, visible


def row(
    cell: Cell,
    status: str,
    reason: str | None = None,
    *,
    metrics: Mapping[str, Any] | None = None,
    missing: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
    numel: int | None = None,
    started: str | None = None,
    wall_seconds: float | None = None,
    run: str = "",
) -> Row:
    """The row of a cell.

    Args:
        cell: what was measured.
        status: one of :data:`STATUSES`.
        reason: why, where status is not "ok"; one line is enough.
        metrics: name -> number, bool, str, ``Missing`` or None. A ``Missing`` becomes null with its reason, and
            so does a number that JSON cannot hold exactly (NaN, infinities, integers from 2**63).
        missing: name -> why it is null, for names that ``metrics`` does not explain itself.
        details: tables and raw samples, JSON-ready; numpy scalars are converted, non-finite numbers become null.
        numel: number of elements of x.
        started: UTC time in ISO form.
        wall_seconds: seconds spent on the whole cell.
        run: id of the run; ``Run.append`` fills it in.

    Returns:
        A row that :func:`validate` accepts.

    Raises:
        SchemaError: a value fits no row, e.g. an unknown status, or no reason where one is due.
    """
    values: dict[str, Any] = {}
    reasons = {str(name): visible(text(str(why))) for name, why in (missing or {}).items()}
    for name, value in (metrics or {}).items():
        values[name], why = _metric(name, value)
        if why is not None:
            reasons.setdefault(name, why)
        elif values[name] is not None and name in reasons:
            raise SchemaError(f"missing: {name!r} has a value, {values[name]!r}, and a reason for having none")
    for name in reasons:
        values.setdefault(name, None)
    made = {
        "schema": SCHEMA, "run": run, "cell": cell.id, **cell.as_dict(), "numel": numel, "status": status,
        "reason": visible(text(reason)) if reason else None, "started": started, "wall_seconds": wall_seconds,
        "metrics": values, "missing": reasons, "details": tidy(dict(details or {})),
    }  # fmt: skip
    return validate(made)


def encode(made: Row) -> bytes:
    r"""One line of JSON, ending in ``\n``, holding no NaN and no newline within; ``details`` comes last.

    Its place at the end lets a reader parse everything else without parsing the raw samples.

    Raises:
        SchemaError: a value in it is no JSON value.
    """
    ordered = {name: made[name] for name in FIELDS}
    try:
        line = json.dumps(ordered, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise SchemaError(f"row of {made.get('cell')!r}: cannot be written as JSON: {error}") from None
    return line.encode() + b"\n"


def tidy(value: Any) -> Any:
    """Details as JSON has them: numpy and torch scalars unwrapped, arrays as lists, non-finite numbers null."""
    if isinstance(value, Mapping):
        return {text(str(k)): tidy(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [tidy(v) for v in value]
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return tidy(value.tolist())
    raise SchemaError(f"details: got a {type(value).__name__}, expected numbers, text, lists and objects")


def _metric(name: str, value: Any) -> tuple[Any, str | None]:
    """A metric's value as JSON has it, and why it is null where it is."""
    why = getattr(value, "reason", None)  # metrics.Missing, known by its shape: importing it would import torch
    if isinstance(why, str):
        return None, text(why) or "no reason given"
    if value is None:
        return None, "no value was read"
    value = _scalar(value)
    if isinstance(value, str):
        return text(value), None
    if isinstance(value, float) and not math.isfinite(value):
        return None, f"not a finite number: {value}"
    if isinstance(value, int) and abs(value) >= WIDEST:
        return None, f"larger than any count: about 2**{abs(value).bit_length() - 1}"
    if name in COUNTED and isinstance(value, (int, float)) and not 0 <= value < WIDEST:
        return None, f"no such figure can be counted: {value}"
    return value, None


def _scalar(value: Any) -> Any:
    """A numpy or torch scalar as Python's own."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "item"):
        return _scalar(value.item())
    raise SchemaError(f"metrics: got a {type(value).__name__}, expected a number, bool, text, Missing or None")
