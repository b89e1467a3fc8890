"""What goes into an engine and what comes out; free of torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hograd_bench.cells import Cell

FATAL = ("oom", "timeout", "crashed")
"""Statuses after which a process is not used again, and larger cells of the same work are not tried."""


class EngineError(RuntimeError):
    """Processes cannot start at all (as opposed to a cell that fails): the message carries their last words."""


@dataclass(frozen=True)
class Host:
    """Where a cell runs: the interpreter, the suite and the environment of its process.

    Attributes:
        python: interpreter.
        roots: folders that come first on its module path (a tree and its ``bench``), the first being its working
            folder; none: as in this process.
        plugins: modules, or files found from the roots, that register operators, methods or problems.
        problem_files: files that declare further problems.
        variables: environment variables of its own; None takes one away.
    """

    python: str = sys.executable
    roots: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    problem_files: tuple[str, ...] = ()
    variables: Mapping[str, str | None] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Task:
    """A cell to measure.

    Attributes:
        cell: what to measure.
        families: names of metric families.
        host: where.
        alone: whether it gets a process of its own; others of one host share processes.
    """

    cell: Cell
    families: tuple[str, ...]
    host: Host = Host()
    alone: bool = False

    @property
    def timed(self) -> bool:
        """Whether its figures include times, which a neighbour would change."""
        return "time" in self.families


@dataclass(frozen=True)
class Event:
    """A task was started (``row`` is None) or settled: the row says how it ended, whatever happened to its process."""

    task: Task
    row: dict[str, Any] | None = None


@dataclass(frozen=True)
class Limits:
    """What a cell may take.

    Attributes:
        seconds: wall-clock limit of one cell.
        memory: limit on a process's private memory in bytes, or None.
    """

    seconds: float = 120.0
    memory: int | None = None


class Engine(Protocol):
    """Runs cells in processes, here or elsewhere. It measures and hands rows back; it never writes them."""

    def environment(self, packages: Iterable[str] = ...) -> dict[str, Any]:
        """What ``environment.record(packages)`` returns where the cells run."""

    def ceilings(self) -> dict[str, Any]:
        """What ``ceilings.measure()`` returns there."""

    def run(self, tasks: Sequence[Task], wanted: Callable[[Task], bool] = ...) -> Iterator[Event]:
        """Tasks in, rows out as they end.

        Args:
            tasks: what to measure.
            wanted: asked before a task is started; one no longer wanted gets no event at all.

        Yields:
            For each wanted task, that it is being started, later that it settled. A task starts only once its event
            has been taken, and a process goes on only once its row has been taken; on other machines a task that was
            wanted when it was handed out may be ahead of its events by some seconds. Closing the iterator ends all.

        Raises:
            EngineError: processes cannot start.
        """
