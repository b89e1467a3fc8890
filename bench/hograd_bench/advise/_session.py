"""A target through the engine, within a budget of time: its description, and the rows that advice is a function of."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from hograd_bench import schema
from hograd_bench.advise import _plan
from hograd_bench.cells import Cell
from hograd_bench.engine import Child, EngineError, Event, Host, Limits, Local, LostError, Task, called

if TYPE_CHECKING:
    from hograd_bench.targets import Request, Target

PROBLEM = "target"
_FILE = """from hograd_bench.targets import declare
import json
declare(json.loads({given!r}), {problem!r}, sweeps={sweeps})
"""
_SHARE = 0.35
"""Of the time that is left, what one method may be expected to take: more, and it is foretold instead."""
_FIRST_LOOK = 30.0
"""Seconds within which a target must have given what plans go by, whatever the budget: a first call may load much."""
_MEASURING = 0.25
"""Of the budget, what is measured for at least, however long a busy machine took to load and look."""
_LONGEST = 10.0
"""Seconds that any method may take although it was expected to take less: a busy machine is no fault of it."""
_FIRST, _AT_LEAST = 0.8, 0.05
"""The same for the first method of each need; and of the budget, what it may take although no time is left."""
_INTERPRETER = 2 * 2**30
"""Bytes that a process takes for itself and its libraries, beside the memory budget."""
_AT_LAST = 0.85
"""Of the budget, after which nothing new is begun: what runs then, ends within it."""


class Runs(Protocol):
    """What is asked of an engine here."""

    def run(self, tasks: Sequence[Task], wanted: Callable[[Task], bool] = ...) -> Iterator[Event]:
        """See :meth:`hograd_bench.engine.Engine.run`."""


Progress = Callable[[str, float], None]
"""Takes what is being done, and the share of the budget that is gone."""


class LostTargetError(RuntimeError):
    """A target did not let itself be looked at: it hung, died, or cannot be differentiated.

    Attributes:
        status: "failed", "timeout", "oom" or "crashed".
        more: a traceback, or the last words of the process.
    """

    def __init__(self, status: str, reason: str, more: str = "") -> None:
        super().__init__(reason)
        self.status, self.more = status, more


@dataclass
class Session:
    """One look at one target.

    Attributes:
        request: the target.
        seconds: budget of wall time, from the making of this on.
        memory: limit that advice keeps to: bytes, or text as ``hograd_core`` takes it.
        wanted, order: operators, and one derivative order more.
        progress: hears what is done.
        preparations: what the best methods are made ready by as well.
        target: objects, for which no child process can be asked.
        clock: seconds that only grow.
        described, rows: what is known so far.
    """

    request: Request
    seconds: float
    memory: str | int = "free"
    wanted: Sequence[str] = _plan.NEEDS
    order: int | None = None
    progress: Progress = lambda what, gone: None
    preparations: Sequence[str] = tuple(_plan.PREPARATIONS)
    target: Target | None = None
    clock: Callable[[], float] = time.monotonic
    described: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._until = self._began + _AT_LAST * self.seconds
        self._measures = False

    @property
    def left(self) -> float:
        """Seconds until nothing new is begun; while processes load, at least what is measured for then."""
        left = self._until - self.clock()
        return left if self._measures else max(left, _MEASURING * self.seconds)

    @property
    def longest(self) -> float:
        """Seconds after which a method is given up, and with it a process that took long to load."""
        return max(_LONGEST, self.seconds / 4)

    def say(self, what: str) -> None:
        """Tell how far it is."""
        self.progress(what, min(1.0, (self.clock() - self._began) / self.seconds))

    def run(self) -> None:
        """Describe the target, then measure what there is time for.

        Raises:
            LostTargetError: it cannot be differentiated at all.
            ValueError: an operator that is unknown, or that the target has no arguments for.
        """
        self.say("looking at the function")
        if self.target is not None:
            self._run_here(self.target)
            return
        with tempfile.TemporaryDirectory(prefix="hograd-advise-") as folder:
            file = Path(folder) / "target.py"
            host = Host(problem_files=(str(file),))
            with self._looked_at() as (self.described, process):
                given, sweeps = json.dumps(self.request.to_json()), _plan.sweeps(self.described, self.seconds)
                file.write_text(_FILE.format(given=given, problem=PROBLEM, sweeps=sweeps), encoding="utf-8")
                limits = Limits(self.longest, int(self.described["memory"]) + _INTERPRETER)
                self._measure(PROBLEM, host, Local(1, limits, process))

    def _run_here(self, target: Target) -> None:
        from hograd_bench import targets
        from hograd_bench.advise._here import Here

        self.described = _not_lost(targets.describe(target, self.memory, self.seconds / 6))
        with targets.declared(target, _plan.sweeps(self.described, self.seconds)) as problem:
            self._measure(problem, Host(), Here())

    @contextmanager
    def _looked_at(self) -> Iterator[tuple[dict[str, Any], Child]]:
        """The description, and the process that made it, which has loaded what cells need."""
        seconds = max(_FIRST_LOOK, self.seconds / 3)
        given, free = (
            (self.request.to_json(), self.memory, seconds / 2),
            psutil.virtual_memory().available + _INTERPRETER,
        )
        try:
            with called(Host(), "hograd_bench.targets:describe", *given, seconds=seconds, memory=free) as (found, left):
                yield _not_lost(found), left
        except (LostError, EngineError) as error:
            status = getattr(error, "status", "crashed")
            what = {
                "timeout": f"it gave no value and gradient within {seconds:.0f} s",
                "oom": "it exhausted the memory",
            }.get(status, "its process died")
            raise LostTargetError(status, f"{self.request.target}: {what}", str(error)) from None

    def _measure(self, problem: str, host: Host, engine: Runs) -> None:
        needs = _plan.needs(self.described, self.wanted, self.order)
        planned = {cell.id: (need, _plan.FULL) for need, cell in _plan.ranked(self.described, problem, needs)}
        ready = {
            cell.id: (need, _plan.PREPARED)
            for need, cell in _plan.prepared(self.described, problem, needs, self.preparations)
        }
        planned |= ready
        cells = self._law_cells(problem, needs)
        laws = {cell.id: (need, _plan.COUNTED) for need, cell in cells if cell.id not in planned}
        planned |= laws
        done: set[str] = set()

        def wanted(task: Task) -> bool:
            need, _ = planned[task.cell.id]
            why = self._why_not(task.cell, need, law=task.cell.id in laws)
            if why is not None and task.cell.id not in done:
                done.add(task.cell.id)
                if task.cell.id not in laws and task.cell.id not in ready:
                    self.rows.append(schema.row(task.cell, status="skipped", reason=f"{_plan.FORETOLD}{why}"))
            return why is None

        tasks = [Task(Cell.parse(name), families, host) for name, (_, families) in planned.items()]
        for event in engine.run(tasks, wanted):
            if event.row is not None:
                self.rows.append(event.row)
            else:
                if not self._measures:
                    self._until, self._measures = self.clock() + self.left, True
                self.say(f"{event.task.cell.operator} by {event.task.cell.method}, n = {event.task.cell.n:,}")

    def _why_not(self, cell: Cell, need: _plan.Need, *, law: bool) -> str | None:
        """Why a cell is not begun, or None."""
        if law or cell.preparation != "eager":
            best = _fastest(self.rows, cell.operator, cell.order, self.described["n"])[:2]
            takes = _plan.seconds(self.described, need, cell.method, self.seconds, cell.n, truth=law)
            takes += 2 * _plan.PREPARATIONS.get(cell.preparation, 0.0)  # it is prepared twice, to tell what is kept
            return None if takes < _SHARE * self.left and cell.method in best else "it is not among the best"
        if _plan.result_bytes(self.described, need) > self.described["memory"]:
            return "its result alone is over the memory budget"
        # One method of each need is measured however late it is: processes start slowly on a busy machine.
        first = not any(
            (row["operator"], row["order"]) == (cell.operator, cell.order) and row["status"] != "skipped"
            for row in self.rows
        )
        expected = _plan.seconds(self.described, need, cell.method, self.seconds, truth=first)
        share = max(_FIRST * self.left, _AT_LEAST * self.seconds) if first else _SHARE * self.left
        if expected > min(share, self.longest / 2):
            left = max(0.0, self.left)
            return f"measuring it takes about {expected:.2g} s, too large a share of the {left:.2g} s that are left"
        return None

    def _law_cells(self, problem: str, needs: Sequence[_plan.Need]) -> Iterator[tuple[_plan.Need, Cell]]:
        for need in needs:
            for n in self.described["law_sizes"]:
                for method in _plan.methods(self.described, need):
                    yield need, _plan.cell(self.described, problem, need, method["name"], n)


def _fastest(rows: Sequence[dict[str, Any]], operator: str, order: int, n: int) -> list[str]:
    """The methods that came out right at size n, by time."""
    timed = [
        (row["metrics"]["seconds_min"], row["method"])
        for row in rows
        if (row["operator"], row["order"], row["n"], row["status"]) == (operator, order, n, "ok")
        and row["preparation"] == "eager"
        and row["metrics"].get("seconds_min") is not None
    ]
    return [method for _, method in sorted(timed)]


def _not_lost(described: dict[str, Any]) -> dict[str, Any]:
    if "error" in described:
        raise LostTargetError("failed", described["error"], described["traceback"])
    return described
