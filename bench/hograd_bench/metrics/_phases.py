"""Where in a computation a moment lies: forward, or the k-th backward; with tangents where forward mode is on.

The autograd engine is entered through one Python function, which is wrapped while a call is traced. Each run
of the engine leaves a span in the profiler's event tree and a record of the autograd sequence numbers handed
out meanwhile. A node's sequence number then says in which run it was created, and a run that evaluates nodes
created in a backward of order k is a backward of order k+1: the n row sweeps of a Hessian are all "backward 2".
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import autograd
from torch._C._autograd import _get_sequence_nr
from torch._C._profiler import _RecordFunctionFast
from torch.autograd import forward_ad, graph

Span = _RecordFunctionFast

CALL = "hograd::call"
RELEASE = "hograd::release"
ENGINE = "hograd::engine"
TANGENTS = "hograd::tangents"

NO_SEQUENCE = (-1, 2**64 - 1)
"""Sequence numbers of events that are no node of a graph: plain operators, and leaves' AccumulateGrad."""


@dataclass
class EngineRun:
    """One run of the autograd engine.

    Attributes:
        first, last: autograd sequence numbers at entry and exit; nodes created within lie in [first, last).
        roots: number of tensors it started from.
    """

    first: int
    roots: int
    last: int = -1


@dataclass
class EngineLog:
    """The runs of the engine during a call, in order of entry."""

    runs: list[EngineRun] = field(default_factory=list)

    @property
    def helper_nodes(self) -> int:
        """Nodes that the engine made for itself: one GraphRoot for each run from more than one tensor."""
        return sum(run.roots > 1 for run in self.runs)


@contextmanager
def engine_log() -> Iterator[EngineLog]:
    """Record the engine's runs inside the block, and mark them and forward-mode levels as profiler spans.

    The engine stays in the calling thread meanwhile: its threads for a GPU hand out sequence numbers of their own.

    Not reentrant and not thread-safe: it replaces module attributes of torch for the time of the block.
    """
    log = EngineLog()
    # torch.autograd imported the function by name, so both names are replaced (torch.compiler does the same).
    run_backward = graph._engine_run_backward
    enter, leave = forward_ad.enter_dual_level, forward_ad.exit_dual_level
    open_levels: list[Any] = []

    def logged_run(outputs: Sequence[Any], *arguments: Any, **keywords: Any) -> Any:
        run = EngineRun(_get_sequence_nr(), len(outputs))
        log.runs.append(run)
        try:
            with Span(ENGINE):
                return run_backward(outputs, *arguments, **keywords)
        finally:
            run.last = _get_sequence_nr()

    def logged_enter() -> Any:
        span = Span(TANGENTS)
        span.__enter__()
        open_levels.append(span)
        return enter()  # type: ignore[no-untyped-call]

    def logged_leave(*, level: int | None = None) -> None:
        leave(level=level)  # type: ignore[no-untyped-call]
        if open_levels:
            open_levels.pop().__exit__(None, None, None)

    def put(engine: Callable[..., Any], entering: Callable[..., Any], leaving: Callable[..., Any]) -> None:
        for module in (graph, torch.autograd):
            setattr(module, "_engine_run_backward", engine)  # noqa: B010 (private, no stub)
        setattr(forward_ad, "enter_dual_level", entering)  # noqa: B010
        setattr(forward_ad, "exit_dual_level", leaving)  # noqa: B010

    put(logged_run, logged_enter, logged_leave)
    try:
        with autograd.set_multithreading_enabled(False):
            yield log
    finally:
        put(run_backward, enter, leave)


class Timeline:
    """Which of some nested half-open intervals [start, end), in order of start, is the innermost at a moment."""

    def __init__(self, intervals: Sequence[tuple[int, int]]) -> None:
        self._moments: list[int] = []
        self._index: list[int | None] = []
        open_now: list[int] = []
        for index, (start, _) in enumerate(intervals):
            self._close(intervals, open_now, start)
            self._mark(start, index)
            open_now.append(index)
        self._close(intervals, open_now, None)

    def _close(self, intervals: Sequence[tuple[int, int]], open_now: list[int], until: int | None) -> None:
        while open_now and (until is None or intervals[open_now[-1]][1] <= until):
            end = intervals[open_now.pop()][1]
            self._mark(end, open_now[-1] if open_now else None)

    def _mark(self, moment: int, index: int | None) -> None:
        self._moments.append(moment)
        self._index.append(index)

    def at(self, moment: int) -> int | None:
        """Index of the innermost interval that contains ``moment``, or None."""
        position = bisect.bisect_right(self._moments, moment) - 1
        return self._index[position] if position >= 0 else None


class Phases:
    """Names the phase of a moment.

    Args:
        engine: spans of the engine's runs on the profiler's clock, in order of start.
        log: the same runs as recorded at their entry.
        tangents: spans in which a forward-mode level was open.
        evaluated: (moment, sequence number) of each node that the engine evaluated.
    """

    def __init__(
        self,
        engine: Sequence[tuple[int, int]],
        log: EngineLog,
        tangents: Sequence[tuple[int, int]],
        evaluated: Iterable[tuple[int, int]],
    ) -> None:
        self._engine = Timeline(engine)
        self._tangents = Timeline(tangents)
        self._names = [f"backward {order}" for order in _orders(len(engine), self._engine, log.runs, evaluated)]

    def name(self, moment: int) -> str:
        """``forward`` (outside every backward) or ``backward k``; ``+ tangents`` where forward mode is on."""
        index = self._engine.at(moment)
        name = "forward" if index is None else self._names[index]
        return name if self._tangents.at(moment) is None else f"{name} + tangents"


def _orders(count: int, engine: Timeline, runs: Sequence[EngineRun], evaluated: Iterable[tuple[int, int]]) -> list[int]:
    """Order of each run: one more than the highest order of a run in which a node that it evaluates was created."""
    sequences: list[set[int]] = [set() for _ in range(count)]
    for moment, sequence in evaluated:
        index = engine.at(moment)
        if index is not None and sequence not in NO_SEQUENCE:
            sequences[index].add(sequence)
    created_in = Timeline([(run.first, run.last) for run in runs])
    orders: list[int] = []
    for own in sequences:
        creators = {created_in.at(sequence) for sequence in own}
        orders.append(1 + max((orders[c] for c in creators if c is not None and c < len(orders)), default=0))
    return orders
