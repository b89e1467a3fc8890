"""The row: what one cell left behind, as one JSON object a line. The table is in docs/architecture.md.

Everything that enters the store passes :func:`row`, which makes values fit (a number that JSON cannot hold
becomes null with a reason); everything that leaves it passes :func:`validate`, which trusts nothing.
This module imports neither torch nor pandas, so that reading results is cheap.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hograd_bench._json import SchemaError as SchemaError
from hograd_bench._json import parse_head as parse_head
from hograd_bench._json import parse_json as parse_json
from hograd_bench._json import parse_quick
from hograd_bench.cells import Cell
from hograd_bench.migrations import MIGRATIONS

SCHEMA = 2
"""Version of the row. Raise it with any change of meaning and add the step to :mod:`hograd_bench.migrations`."""

ENVIRONMENT_SCHEMA = 1
"""Version of environment.json."""

STATUSES = ("ok", "unsupported", "skipped", "wrong", "failed", "oom", "timeout", "crashed")

CELL_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(Cell))
_TEXT_FIELDS = ("operator", "method", "problem", "dtype", "device", "preparation")
_COUNT_FIELDS = ("n", "order", "depth", "batch", "threads")
_FIELDS = (
    "schema", "run", "cell", *CELL_FIELDS, "numel", "status", "reason", "started", "wall_seconds",
    "metrics", "missing", "details",
)  # fmt: skip
_FIELD_SET = frozenset(_FIELDS)
_RESERVED = _FIELD_SET | {"machine", "line"}
_INFINITY = float("inf")
NOT_ASKED = "not asked for"
"""Reason of a metric that is missing because the run was not to measure it."""
_PLAIN = frozenset({float, int, bool, type(None)})
_WIDEST = 2**63
"""Integers from here on are refused: no count or byte figure is that large, but a damaged one may be."""

Row = dict[str, Any]
"""A row as plain JSON types; :func:`row` and :func:`validate` are the two ways to have one."""


class NewerSchemaError(SchemaError):
    """The object was written by a newer hograd."""


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
    reasons = {str(name): _text(str(why)) for name, why in (missing or {}).items()}
    for name, value in (metrics or {}).items():
        values[name], why = _metric(value)
        if why is not None:
            reasons.setdefault(name, why)
        elif values[name] is not None and name in reasons:
            raise SchemaError(f"missing: {name!r} has a value, {values[name]!r}, and a reason for having none")
    for name in reasons:
        values.setdefault(name, None)
    made = {
        "schema": SCHEMA, "run": run, "cell": cell.id, **cell.as_dict(), "numel": numel, "status": status,
        "reason": _text(reason) if reason else None, "started": started, "wall_seconds": wall_seconds,
        "metrics": values, "missing": reasons, "details": tidy(dict(details or {})),
    }  # fmt: skip
    return validate(made)


def validate(obj: Any) -> Row:
    """Check an object that came from outside and return it as a row of the current schema.

    Older schemas are migrated. Strings are kept as they are, markup included (lone surrogates, which no encoder
    takes, become U+FFFD): whoever shows them escapes them.

    Raises:
        NewerSchemaError: written by a newer hograd.
        SchemaError: not a row; the message names the field, what it got and what was expected.
    """
    if not isinstance(obj, dict):
        raise SchemaError(f"row: got {_kind(obj)}, expected a JSON object")
    made = _migrated(obj)
    unknown, lacking = made.keys() - _FIELD_SET, _FIELD_SET - made.keys()
    if lacking:
        raise SchemaError(f"{sorted(lacking)[0]}: missing from the row; is this file a rows.jsonl of hograd?")
    if unknown:
        raise SchemaError(f"{sorted(map(str, unknown))[0]!r}: not a field of schema {SCHEMA}")
    _check_cell(made)
    _check_outcome(made)
    made["metrics"], made["missing"] = _checked_metrics(made["metrics"], made["missing"])
    if not isinstance(made["details"], dict):
        raise SchemaError(f"details: got {_kind(made['details'])}, expected an object")
    return made


def plain_row(text: bytes) -> Row | None:
    """The row in a line of JSON, where everything in it is as in nearly all lines; None: parse and validate it.

    It takes a fifth of the time, for the hundred thousands, and accepts no line that :func:`validate` does not; of a
    line that it leaves, that function says what is wrong, if anything is.
    """
    made = parse_quick(text)
    if type(made) is not dict or made.keys() != _FIELD_SET or type(made["schema"]) is not int:
        return None
    seconds = made["wall_seconds"]
    if made["schema"] != SCHEMA or not (type(seconds) is float and seconds < _WIDEST) or made["details"] != {}:
        return None
    try:
        _check_cell(made)
        _check_outcome(made)
        made["missing"] = _plain_metrics(made["metrics"], made["missing"])
    except (SchemaError, TypeError, OverflowError):
        return None
    return made if made["missing"] is not None else None


def _plain_metrics(values: Any, reasons: Any) -> dict[str, str] | None:
    """The reasons, equal ones as one object; None where values or reasons call for :func:`_checked_metrics`."""
    if type(values) is not dict or type(reasons) is not dict or not set(map(type, values.values())) <= _PLAIN:
        return None
    _check_names(tuple(values))
    # One sum instead of a comparison each; integers that were too long for the parser are in it as well.
    if not sum(map(abs, filter(None, values.values()))) < _WIDEST:
        return None
    void = [name for name, value in values.items() if value is None]
    if void != list(reasons) and (len(void) != len(reasons) or set(void) != reasons.keys()):
        return None
    return _plain_reasons(tuple(reasons.items()))


@functools.lru_cache(maxsize=4096)  # rows repeat their reasons
def _plain_reasons(reasons: tuple[tuple[str, Any], ...]) -> dict[str, str] | None:
    return dict(reasons) if all(type(why) is str and why and why.isascii() for _, why in reasons) else None


def encode(made: Row) -> bytes:
    r"""One line of JSON, ending in ``\n``, holding no NaN and no newline within; ``details`` comes last.

    Its place at the end lets a reader parse everything else without parsing the raw samples.

    Raises:
        SchemaError: a value in it is no JSON value.
    """
    ordered = {name: made[name] for name in _FIELDS}
    try:
        text = json.dumps(ordered, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise SchemaError(f"row of {made.get('cell')!r}: cannot be written as JSON: {error}") from None
    return text.encode() + b"\n"


def _migrated(obj: dict[str, Any]) -> Row:
    version = obj.get("schema")
    if isinstance(version, bool) or not isinstance(version, int):
        raise SchemaError(
            f"schema: got {_shown(version)}, expected an integer from 1 to {SCHEMA}; "
            "is this file a rows.jsonl of hograd?"
        )
    if version > SCHEMA:
        raise NewerSchemaError(
            f"schema: got {_shown(version)}, written by a newer hograd (this one reads up to {SCHEMA}); upgrade hograd"
        )
    made = dict(obj)
    while version < SCHEMA:
        if version not in MIGRATIONS:
            raise SchemaError(f"schema: got {_shown(version)}, expected an integer from 1 to {SCHEMA}")
        try:
            made = MIGRATIONS[version](made)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SchemaError(f"schema: a row of schema {version} that cannot be migrated: {error!r}") from None
        version += 1
    return made


def _check_cell(made: Row) -> None:
    values = [made[name] for name in CELL_FIELDS]
    try:
        made.update(_known_cell(made["cell"], *values))
    except TypeError:  # something unhashable, which is no cell: the same check says what
        _known_cell.__wrapped__(made["cell"], *values)
        raise
    if not isinstance(made["run"], str):
        raise SchemaError(f"run: got {_kind(made['run'])}, expected text")
    if made["numel"] is not None:
        _integer(made["numel"], "numel", 0)


@functools.lru_cache(maxsize=2**15, typed=True)  # runs repeat their cells; and each text is held once
def _known_cell(cell_id: Any, *values: Any) -> Row:
    named: dict[str, Any] = dict(zip(CELL_FIELDS, values, strict=True))
    for name in _TEXT_FIELDS:
        if "/" in _nonempty(named[name], name):
            raise SchemaError(f"{name}: got {_shown(named[name])}, expected text without '/'")
    for name in _COUNT_FIELDS:
        _integer(named[name], name, 1)
    cell = Cell(**named)
    if cell_id != cell.id:
        raise SchemaError(f"cell: got {_shown(cell_id)}, but the row's fields say {cell.id!r}")
    return {"cell": cell.id, **named}


def _check_outcome(made: Row) -> None:
    status, reason = made["status"], made["reason"]
    if status not in STATUSES:
        raise SchemaError(f"status: got {_shown(status)}, expected one of {', '.join(STATUSES)}")
    if reason is not None:
        if not isinstance(reason, str):
            raise SchemaError(f"reason: got {_kind(reason)}, expected text or null")
        made["reason"] = _text(reason)
    if status != "ok" and not made["reason"]:
        raise SchemaError(f"reason: missing; a row of status {status!r} says why")
    if made["started"] is not None:
        _nonempty(made["started"], "started")
    seconds = made["wall_seconds"]
    if seconds is not None and (_number(seconds, "wall_seconds") < 0):
        raise SchemaError(f"wall_seconds: got {seconds!r}, expected a number >= 0 or null")


def _checked_metrics(values: Any, reasons: Any) -> tuple[dict[str, Any], dict[str, str]]:
    for name, obj in (("metrics", values), ("missing", reasons)):
        if not isinstance(obj, dict):
            raise SchemaError(f"{name}: got {_kind(obj)}, expected an object")
    _check_names(tuple(values))
    for name, value in values.items():
        # The common cases of a hundred thousand rows, first.
        if (type(value) is float and -_INFINITY < value < _INFINITY) or (type(value) is int and abs(value) < _WIDEST):
            continue
        if value is None:
            if not reasons.get(name):
                raise SchemaError(f"missing[{_shown(name)}]: not there, but the metric is null; a null has a reason")
        elif isinstance(value, str):
            values = {**values, name: _text(value)}
        elif not isinstance(value, bool):
            _number(value, f"metrics[{_shown(name)}]")
    for name, why in reasons.items():
        if not isinstance(why, str):
            raise SchemaError(f"missing[{_shown(name)}]: got {_kind(why)}, expected text")
        if values.get(name, "absent") is not None:
            raise SchemaError(f"missing[{_shown(name)}]: a reason, but metrics has no null of that name")
        if not why.isascii():
            reasons = {**reasons, name: _text(why)}
    return values, reasons


@functools.lru_cache(maxsize=512)  # rows repeat their sets of metrics
def _check_names(names: tuple[Any, ...]) -> None:
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or name in _RESERVED:
            raise SchemaError(
                f"metrics[{_shown(name)}]: not the name of a metric, expected an identifier that is no field of the row"
            )


def _metric(value: Any) -> tuple[Any, str | None]:
    """A metric's value as JSON has it, and why it is null where it is."""
    why = getattr(value, "reason", None)  # metrics.Missing, known by its shape: importing it would import torch
    if isinstance(why, str):
        return None, _text(why) or "no reason given"
    if value is None:
        return None, "no value was read"
    value = _scalar(value)
    if isinstance(value, str):
        return _text(value), None
    if isinstance(value, float) and not math.isfinite(value):
        return None, f"not a finite number: {value}"
    if isinstance(value, int) and abs(value) >= _WIDEST:
        return None, f"larger than any count: about 2**{abs(value).bit_length() - 1}"
    return value, None


def tidy(value: Any) -> Any:
    """Details as JSON has them: numpy and torch scalars unwrapped, arrays as lists, non-finite numbers null."""
    if isinstance(value, Mapping):
        return {_text(str(k)): tidy(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [tidy(v) for v in value]
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return tidy(value.tolist())
    raise SchemaError(f"details: got a {type(value).__name__}, expected numbers, text, lists and objects")


def _scalar(value: Any) -> Any:
    """A numpy or torch scalar as Python's own."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "item"):
        return _scalar(value.item())
    raise SchemaError(f"metrics: got a {type(value).__name__}, expected a number, bool, text, Missing or None")


def _text(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _nonempty(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value or _text(value) != value:
        raise SchemaError(f"{name}: got {_shown(value)}, expected text")
    return value


def _integer(value: Any, name: str, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value < _WIDEST:
        raise SchemaError(f"{name}: got {_shown(value)}, expected an integer from {minimum}")


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SchemaError(f"{name}: got {_kind(value)}, expected a number or null")
    if (isinstance(value, int) and abs(value) >= _WIDEST) or not math.isfinite(value):
        raise SchemaError(f"{name}: got {_shown(value)}, expected a finite number")
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else kinds.get(type(value), f"a {type(value).__name__}")


def _shown(value: Any) -> str:
    """A value for a message: short, on one line, whatever it is."""
    if isinstance(value, int) and abs(value) >= _WIDEST:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
