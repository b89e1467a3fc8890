"""How rows of older schemas become rows of the next: one function a step, each tested on recorded old rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_CELL_1 = ("operator", "method", "problem", "n", "order", "depth", "batch", "dtype", "device", "threads")
_ROW_1 = frozenset(("schema", "run", "cell", *_CELL_1, "status", "reason", "time", "seconds", "samples"))


def from_1(old: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 had the metrics beside the fields, raw samples as ``samples``, and no reasons for nulls.

    It also had no preparation (every cell was called as is) and no element count.
    """
    values = {name: value for name, value in old.items() if name not in _ROW_1}
    ok = old["status"] == "ok"
    why = "not recorded by schema 1" if ok else f"the cell's status is {old['status']}"
    samples = old.get("samples")
    return {
        "schema": 2,
        "run": old["run"],
        "cell": f"{old['cell']}/eager",
        **{name: old[name] for name in _CELL_1},
        "preparation": "eager",
        "numel": None,
        "status": old["status"],
        "reason": None if ok else old.get("reason") or "no reason recorded by schema 1",
        "started": old.get("time"),
        "wall_seconds": old.get("seconds"),
        "metrics": values,
        "missing": {name: why for name, value in values.items() if value is None},
        "details": {} if samples is None else {"samples_seconds": samples},
    }


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: from_1}
"""Schema of a row -> the step to the next schema."""
