"""Planned cells through an engine into the rows of a run: every cell gets exactly one, whatever becomes of it.

Nobody else writes rows. Here is what follows from an outcome: larger cells of the same work are skipped, and figures
that need a process of their own (metrics/resident.py) are put into their cell's row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hograd_bench import measure, metrics, peers, plan, schema, store
from hograd_bench.engine import FATAL, Engine, Host, Task
from hograd_bench.plan import Planned

Isolation = Literal["auto", "always", "never"]

ISOLATE_ABOVE = 2**28
"""Result bytes from which a cell gets a process of its own under --isolate auto. Peaks are a small multiple of
the result for full tensors, so this is about a gigabyte of footprint."""


@dataclass(frozen=True)
class Event:
    """One cell settled: what a progress display hears."""

    planned: Planned
    status: str
    reason: str


@dataclass
class _Open:
    """A cell that has no row yet."""

    planned: Planned
    row: dict[str, Any] | None = None
    started: bool = False
    apart: dict[str, dict[str, Any] | None] = field(default_factory=dict)  # family -> its row


def execute(
    plans: Sequence[Planned],
    run: store.Run,
    engine: Engine,
    on_event: Callable[[Event], None] = lambda event: None,
    *,
    on_start: Callable[[Planned], None] = lambda planned: None,
    isolate: Isolation = "auto",
    apart: Collection[str] = (),
    known_failures: Collection[str] = (),
    host: Host = Host(),  # noqa: B008 (frozen)
) -> None:
    """Measure every planned cell that has no row in ``run`` yet; each becomes a row.

    Args:
        plans: the cells; those with ``skip`` become rows with that reason.
        run: where rows go.
        engine: what runs them.
        on_event: called after each cell settled.
        on_start: called when a cell begins to be measured.
        isolate: "always": a process a cell; "auto": for cells predicted or known to be large; "never".
        apart: metric families that each need a further process a cell, also to be measured.
        known_failures: ids of cells that ran out of memory or time before, or were large: isolated under "auto".
        host: where the cells run.

    Raises:
        EngineError: processes cannot start.
        StoreError: a row cannot be written.
        KeyboardInterrupt: after the processes were stopped; finished rows are kept.
    """
    done = run.finished_cells()
    left = {p.cell.id: _Open(p) for p in plans if p.cell.id not in done}

    def settle(row: dict[str, Any]) -> None:
        planned = left.pop(row["cell"]).planned
        run.append(row)
        on_event(Event(planned, row["status"], row["reason"] or ""))

    def wanted(task: Task) -> bool:
        return task.cell.id in left

    for planned in [each.planned for each in left.values() if each.planned.skip is not None]:
        settle(schema.row(planned.cell, status="skipped", reason=planned.skip or ""))
    tasks = _tasks([each.planned for each in left.values()], host, isolate, apart, known_failures)
    with closing(engine.run(tasks, wanted)) as events:  # type: ignore[type-var]
        for event in events:
            identifier, row = event.task.cell.id, event.row
            if identifier not in left:
                continue  # a figure apart of a cell that failed meanwhile
            cell, family = left[identifier], _family_apart(event.task)
            if row is None:
                cell.started = True
                on_start(cell.planned)
            elif family is not None:
                cell.apart[family] = row
            else:
                cell.row = row
            if cell.row is not None and (cell.row["status"] != "ok" or set(apart) <= set(cell.apart)):
                settle(merged(cell.row, {name: taken for name, taken in cell.apart.items() if taken is not None}))
                if cell.row["status"] in FATAL:
                    why = f"dominated: {identifier} ended as {cell.row['status']}"
                    for larger in [each.planned.cell for each in left.values() if not each.started]:
                        if larger.dominates(cell.planned.cell):
                            settle(schema.row(larger, status="skipped", reason=why))


def merged(row: dict[str, Any], apart: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A cell's row with the figures of families that were measured in processes of their own.

    Args:
        row: the cell's.
        apart: family -> the row that its process left; where that is not "ok", its status is why a figure is missing.
    """
    values, missing = dict(row["metrics"]), dict(row["missing"])
    for family, other in apart.items():
        for metric in metrics.families()[family].METRICS:
            values[metric.name] = other["metrics"].get(metric.name)
            missing.pop(metric.name, None)
            if values[metric.name] is None:
                ended = f"its own process ended as {other['status']}: {other['reason']}"
                missing[metric.name] = other["missing"].get(metric.name, ended)
    return {**row, "metrics": values, "missing": missing}


def _tasks(
    plans: Sequence[Planned], host: Host, isolate: Isolation, apart: Collection[str], known_failures: Collection[str]
) -> list[Task]:
    """The tasks of the plans: those that share a process first, one by one; each followed by its figures apart."""

    def is_alone(planned: Planned) -> bool:
        if isolate == "auto":
            return planned.cell.id in known_failures or plan.predicted_bytes(planned) > ISOLATE_ABOVE
        return isolate == "always"

    def peer(planned: Planned) -> str:
        """A peer has processes of its own: its imports, hooks, threads and crashes touch no other's cells."""
        return next((method.peer.name for method in peers.of_cells([planned.cell])), "")

    tasks = []
    for alone, whose, planned in sorted(((is_alone(p), peer(p), p) for p in plans), key=lambda each: each[:2]):
        variables = {**host.variables, **({"HOGRAD_PEER": whose} if whose else {})}
        tasks.append(Task(planned.cell, planned.families, replace(host, variables=variables), alone))
        for family in apart:
            more = {**variables, **metrics.families()[family].VARIABLES}
            tasks.append(Task(planned.cell, (family,), replace(host, variables=more), alone=True))
    return tasks


def _family_apart(task: Task) -> str | None:
    """The family that a task measures apart, or None for the cell itself."""
    return task.families[0] if len(task.families) == 1 and task.families[0] in measure.APART else None
