"""Deterministic metrics in fresh processes: other hash seeds, other cells before, the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hograd_bench import measure
from hograd_bench.cells import Cell
from hograd_bench.engine import Host, Limits, Local, Task
from hograd_bench.metrics import metrics

Figures = dict[str, Any]


def figures(row: Mapping[str, Any]) -> Figures:
    """The status, deterministic metrics and tables of a row: what two processes must agree on."""
    known = metrics()
    stable = {name: value for name, value in row["metrics"].items() if known[name].deterministic}
    tables = {k: v for k, v in row["details"].items() if k not in ("traceback", "warnings")}
    return {"status": row["status"], "reason": row["reason"], **stable, **tables}


def fresh(cells: Sequence[Cell], hash_seed: int) -> dict[str, Figures]:
    """Figures of several cells by id, measured one after the other in one fresh process with that PYTHONHASHSEED.

    Raises:
        EngineError: the process cannot start.
    """
    # Waiting threads that spin would take the cores from whatever else runs; figures do not depend on it.
    host = Host(variables={"PYTHONHASHSEED": str(hash_seed), "OMP_WAIT_POLICY": "PASSIVE"})
    tasks = [Task(cell, measure.DETERMINISTIC, host) for cell in cells]
    events = Local(limits=Limits(seconds=3600.0)).run(tasks)
    return {event.task.cell.id: figures(event.row) for event in events if event.row is not None}


def differences(a: Mapping[str, Figures], b: Mapping[str, Figures]) -> dict[str, list[str]]:
    """Names of the figures that differ, by cell; a cell that only one side has differs as a whole."""
    found: dict[str, list[str]] = {}
    for cell in sorted(a.keys() | b.keys()):
        ours, theirs = a.get(cell), b.get(cell)
        if ours is None or theirs is None:
            found[cell] = ["cell"]
            continue
        names = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
        if names:
            found[cell] = names
    return found
