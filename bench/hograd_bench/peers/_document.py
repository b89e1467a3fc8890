"""What a campaign leaves behind: one JSON document. Written by us, read as if by nobody we know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from hograd_bench.peers._contract import Contest
from hograd_bench.schema import STATUSES, SchemaError

SCHEMA = 1
KIND = "peers"
Document = dict[str, Any]

NUMBERS = (
    "seconds_min", "seconds_median", "process_spread", "calls", "prepare_seconds", "first_call_seconds",
    "compile_seconds", "relative_error", "tolerance", "function_error", "waited", "peak_bytes",
)  # fmt: skip
"""Metrics of a row that are numbers; ``memory_instrument`` is text."""

_CONTEST = {field.name: int if field.name in ("n", "depth", "batch", "order") else str for field in fields(Contest)}
_MOST_TEXT = 400


def row(
    contest: Contest,
    peer: str,
    way: str,
    status: str,
    reason: str | None,
    metrics: Mapping[str, Any],
    missing: Mapping[str, str],
    note: str = "",
) -> dict[str, Any]:
    """One contestant's row, JSON-ready: a number that JSON cannot hold is dropped, and ``missing`` says so."""
    kept: dict[str, Any] = {}
    lacking = dict(missing)
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            lacking[name] = "not finite"
        else:
            kept[name] = value
    return {
        "peer": peer, "way": way, **vars(contest), "status": status, "reason": reason, "metrics": kept,
        "missing": lacking, "note": note,
    }  # fmt: skip


def document(
    environment: Mapping[str, Any],
    settings: Mapping[str, Any],
    peers: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
) -> Document:
    """The whole, checked.

    Args:
        environment: of ``environment.record()``.
        settings: command, processes, rounds, CPU: how it was measured.
        peers: name, distribution, home, framework, version or None, and reason where there is none.
        rows: of :func:`row`.
    """
    return validate({
        "schema": SCHEMA, "kind": KIND, "environment": dict(environment), "settings": dict(settings),
        "peers": [dict(p) for p in peers], "rows": [dict(r) for r in rows],
    })  # fmt: skip


def validate(found: Any) -> Document:
    """The document, once it is known to be one.

    Raises:
        SchemaError: it is not; the message names the field.
    """
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise SchemaError(f"kind: got {found.get('kind') if isinstance(found, dict) else type(found).__name__!r}, "
                          f"expected an object of kind {KIND!r}")  # fmt: skip
    if found.get("schema") != SCHEMA:
        raise SchemaError(f"schema: got {found.get('schema')!r}, expected {SCHEMA}; measure again with hograd peers")
    for name in ("environment", "settings"):
        if not isinstance(found.get(name), dict):
            raise SchemaError(f"{name}: got {type(found.get(name)).__name__}, expected an object")
    for name, check in (("peers", _peer), ("rows", _row)):
        if not isinstance(found.get(name), list):
            raise SchemaError(f"{name}: got {type(found.get(name)).__name__}, expected a list")
        for position, item in enumerate(found[name]):
            check(item, f"{name}[{position}]")
    return found


def _text(value: Any, where: str, *, optional: bool = False) -> None:
    if not (optional and value is None) and not (isinstance(value, str) and len(value) <= _MOST_TEXT):
        raise SchemaError(f"{where}: got {value!r:.60}, expected text of at most {_MOST_TEXT} characters")


def _peer(item: Any, where: str) -> None:
    if not isinstance(item, dict):
        raise SchemaError(f"{where}: got {type(item).__name__}, expected an object")
    for name in ("name", "distribution", "home", "framework"):
        _text(item.get(name), f"{where}.{name}")
    for name in ("version", "reason"):
        _text(item.get(name), f"{where}.{name}", optional=True)


def _row(item: Any, where: str) -> None:
    if not isinstance(item, dict):
        raise SchemaError(f"{where}: got {type(item).__name__}, expected an object")
    for name in ("peer", "way", "note"):
        _text(item.get(name), f"{where}.{name}")
    for name, kind in _CONTEST.items():
        value = item.get(name)
        if type(value) is not kind:
            raise SchemaError(f"{where}.{name}: got {value!r:.60}, expected {kind.__name__}")
    if item.get("status") not in STATUSES:
        raise SchemaError(f"{where}.status: got {item.get('status')!r:.60}, expected one of {', '.join(STATUSES)}")
    _text(item.get("reason"), f"{where}.reason", optional=True)
    if (item["status"] == "ok") != (item.get("reason") is None):
        raise SchemaError(f"{where}.reason: expected one where, and only where, the status is not ok")
    metrics, missing = item.get("metrics"), item.get("missing")
    if not isinstance(metrics, dict) or not isinstance(missing, dict):
        raise SchemaError(f"{where}: expected objects metrics and missing")
    for name in NUMBERS:
        value = metrics.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf
        ):
            raise SchemaError(f"{where}.metrics.{name}: got {value!r:.60}, expected a number >= 0")
    _text(metrics.get("memory_instrument"), f"{where}.metrics.memory_instrument", optional=True)
    if item["status"] == "ok" and not metrics.get("seconds_min"):
        raise SchemaError(f"{where}.metrics.seconds_min: missing from a row that is ok")


def contest_of(item: Mapping[str, Any]) -> Contest:
    """The contest of a row."""
    return Contest(**{name: item[name] for name in _CONTEST})
