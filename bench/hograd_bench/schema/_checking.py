"""The full check of what came from outside: it trusts nothing, and says what is wrong."""

from __future__ import annotations

import functools
from typing import Any

from hograd_bench.cells import Cell
from hograd_bench.schema._json import SchemaError
from hograd_bench.schema._migrations import MIGRATIONS
from hograd_bench.schema._values import (
    CELL_FIELDS,
    COUNT_FIELDS,
    COUNTED,
    FIELD_SET,
    RESERVED,
    SCHEMA,
    STATUSES,
    TEXT_FIELDS,
    WIDEST,
    Row,
    integer,
    kind,
    nonempty,
    number,
    shown,
    text,
)  # fmt: skip

_INFINITY = float("inf")


class NewerSchemaError(SchemaError):
    """The object was written by a newer hograd."""


def validate(obj: Any) -> Row:
    """Check an object that came from outside and return it as a row of the current schema.

    Older schemas are migrated. Strings are kept as they are, markup included (lone surrogates, which no encoder
    takes, become U+FFFD): whoever shows them escapes them.

    Raises:
        NewerSchemaError: written by a newer hograd.
        SchemaError: not a row; the message names the field, what it got and what was expected.
    """
    if not isinstance(obj, dict):
        raise SchemaError(f"row: got {kind(obj)}, expected a JSON object")
    made = _migrated(obj)
    unknown, lacking = made.keys() - FIELD_SET, FIELD_SET - made.keys()
    if lacking:
        raise SchemaError(f"{sorted(lacking)[0]}: missing from the row; is this file a rows.jsonl of hograd?")
    if unknown:
        raise SchemaError(f"{sorted(map(str, unknown))[0]!r}: not a field of schema {SCHEMA}")
    check_cell(made)
    check_outcome(made)
    made["metrics"], made["missing"] = checked_metrics(made["metrics"], made["missing"])
    if not isinstance(made["details"], dict):
        raise SchemaError(f"details: got {kind(made['details'])}, expected an object")
    return made


def _migrated(obj: dict[str, Any]) -> Row:
    version = obj.get("schema")
    if isinstance(version, bool) or not isinstance(version, int):
        raise SchemaError(
            f"schema: got {shown(version)}, expected an integer from 1 to {SCHEMA}; "
            "is this file a rows.jsonl of hograd?"
        )
    if version > SCHEMA:
        raise NewerSchemaError(
            f"schema: got {shown(version)}, written by a newer hograd (this one reads up to {SCHEMA}); upgrade hograd"
        )
    made = dict(obj)
    while version < SCHEMA:
        if version not in MIGRATIONS:
            raise SchemaError(f"schema: got {shown(version)}, expected an integer from 1 to {SCHEMA}")
        try:
            made = MIGRATIONS[version](made)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SchemaError(f"schema: a row of schema {version} that cannot be migrated: {error!r}") from None
        version += 1
    return made


def check_cell(made: Row) -> None:
    values = [made[name] for name in CELL_FIELDS]
    try:
        made.update(_known_cell(made["cell"], *values))
    except TypeError:  # something unhashable, which is no cell: the same check says what
        _known_cell.__wrapped__(made["cell"], *values)
        raise
    if not isinstance(made["run"], str):
        raise SchemaError(f"run: got {kind(made['run'])}, expected text")
    if made["numel"] is not None:
        integer(made["numel"], "numel", 0)


@functools.lru_cache(maxsize=2**15, typed=True)  # runs repeat their cells; and each text is held once
def _known_cell(cell_id: Any, *values: Any) -> Row:
    named: dict[str, Any] = dict(zip(CELL_FIELDS, values, strict=True))
    for name in TEXT_FIELDS:
        if "/" in nonempty(named[name], name):
            raise SchemaError(f"{name}: got {shown(named[name])}, expected text without '/'")
    for name in COUNT_FIELDS:
        integer(named[name], name, 1)
    cell = Cell(**named)
    if cell_id != cell.id:
        raise SchemaError(f"cell: got {shown(cell_id)}, but the row's fields say {cell.id!r}")
    return {"cell": cell.id, **named}


def check_outcome(made: Row) -> None:
    status, reason = made["status"], made["reason"]
    if status not in STATUSES:
        raise SchemaError(f"status: got {shown(status)}, expected one of {', '.join(STATUSES)}")
    if reason is not None:
        if not isinstance(reason, str):
            raise SchemaError(f"reason: got {kind(reason)}, expected text or null")
        made["reason"] = text(reason)
    if status != "ok" and not made["reason"]:
        raise SchemaError(f"reason: missing; a row of status {status!r} says why")
    if made["started"] is not None:
        nonempty(made["started"], "started")
    seconds = made["wall_seconds"]
    if seconds is not None and (number(seconds, "wall_seconds") < 0):
        raise SchemaError(f"wall_seconds: got {seconds!r}, expected a number >= 0 or null")


def checked_metrics(values: Any, reasons: Any) -> tuple[dict[str, Any], dict[str, str]]:
    for name, obj in (("metrics", values), ("missing", reasons)):
        if not isinstance(obj, dict):
            raise SchemaError(f"{name}: got {kind(obj)}, expected an object")
    check_names(tuple(values))
    for name, value in values.items():
        # The common cases of a hundred thousand rows, first.
        if (type(value) is float and -_INFINITY < value < _INFINITY) or (type(value) is int and abs(value) < WIDEST):
            if name in COUNTED and not 0 <= value < WIDEST:
                raise SchemaError(f"metrics[{name!r}]: got {value!r}, expected a number from 0 that can be counted")
            continue
        if value is None:
            if not reasons.get(name):
                raise SchemaError(f"missing[{shown(name)}]: not there, but the metric is null; a null has a reason")
        elif isinstance(value, str):
            values = {**values, name: text(value)}
        elif not isinstance(value, bool):
            number(value, f"metrics[{shown(name)}]")
    for name, why in reasons.items():
        if not isinstance(why, str):
            raise SchemaError(f"missing[{shown(name)}]: got {kind(why)}, expected text")
        if values.get(name, "absent") is not None:
            raise SchemaError(f"missing[{shown(name)}]: a reason, but metrics has no null of that name")
        if not why.isascii():
            reasons = {**reasons, name: text(why)}
    return values, reasons


@functools.lru_cache(maxsize=512)  # rows repeat their sets of metrics
def check_names(names: tuple[Any, ...]) -> None:
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            raise SchemaError(
                f"metrics[{shown(name)}]: not the name of a metric, expected an identifier that is no field of the row"
            )
