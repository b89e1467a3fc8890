"""Every block that one call takes from PyTorch's allocator, in order: the instrument of the memory metrics.

The profiler reports each allocation and release of the c10 allocators (scratch that kernels take from them
included), to the byte and without rounding on the CPU. Blocks are followed by their address, so a release of
memory that is older than the call is recognised and never counted as negative.

Blind spots, by construction: memory that MKL, oneDNN or LAPACK take from malloc themselves; Python objects;
blocks taken by threads other than the calling one and the autograd engine's.
"""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._profiler import _EventType
from torch.autograd.profiler import profile
from torch.utils import _pytree

from hograd_bench.metrics._phases import CALL, ENGINE, RELEASE, TANGENTS, EngineLog, Phases, Span, engine_log

# Kineto writes a line to stderr at each start and stop of the profiler below this level; read at first use.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")

_FACTORIES = ("aten::empty", "aten::new_empty", "aten::resize", "aten::_empty")
"""Operators that only take memory on behalf of their caller: the caller is named instead."""

_EVALUATE = "autograd::engine::evaluate_function: "


@dataclass(frozen=True)
class Event:
    """One block taken (size > 0) or released (size < 0).

    Attributes:
        moment: nanoseconds on the profiler's clock.
        size: bytes, as requested.
        block: device and address.
        op: the innermost ATen operator that did it, factories aside where one called them; ``-`` outside all.
        within: the autograd node being evaluated, or else the outermost operator.
    """

    moment: int
    size: int
    block: tuple[str, int]
    op: str
    within: str


@dataclass(frozen=True)
class Held:
    """Bytes alive at a moment that one operator took in one phase."""

    phase: str
    op: str
    within: str
    bytes: int
    blocks: int


@dataclass(frozen=True)
class AllocationTrace:
    """What a call took and released.

    Attributes:
        peak_bytes: most bytes alive at once, during the call, in blocks that the call took.
        result_bytes: bytes of the storages behind the tensors of the result.
        returned_bytes: alive when the call returned: result, kept graphs, garbage in cycles, leaks.
        retained_bytes: still alive after the result was deleted and the garbage collected.
        collected_bytes: released by the garbage collector alone, after the result was deleted.
        total_bytes: sum over all blocks taken.
        allocations: number of blocks taken.
        attribution: who took the bytes alive at the (first) peak, largest first; sums to peak_bytes.
        left: who took what is still alive after all; sums to retained_bytes.
    """

    peak_bytes: int
    result_bytes: int
    returned_bytes: int
    retained_bytes: int
    collected_bytes: int
    total_bytes: int
    allocations: int
    attribution: tuple[Held, ...]
    left: tuple[Held, ...]


_settled = False


@contextmanager
def settled() -> Iterator[None]:
    """For a process that measures cells: what autograd loads late is loaded, and no collection looks at libraries.

    Both take longer than a small cell: the first in seconds at some first call, the other at each of its collections.
    What is there already stays alive inside the block.
    """
    global _settled
    importlib.import_module("torch._dynamo")
    ours, before = not gc.get_freeze_count(), _settled
    settle()
    _settled = True
    try:
        yield
    finally:
        _settled = before
        if ours:
            gc.unfreeze()


def settle() -> None:
    """Between cells: garbage goes, and no later collection looks at what stays, such as a report of every cell."""
    gc.collect()
    gc.freeze()


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Garbage collector off, and everything that exists already out of its sight.

    A collection inside the block then looks only at what the block made: fast (it would take tens of
    milliseconds with the suite's libraries loaded) and blind to garbage that earlier work left. In a process that has
    :func:`settled`, that garbage goes instead.
    """
    was_on = gc.isenabled()
    gc.disable()
    if _settled:
        gc.collect()
    else:
        gc.freeze()
    try:
        yield
    finally:
        if not _settled:
            gc.unfreeze()
        if was_on:
            gc.enable()


def storages(result: Any) -> list[torch.UntypedStorage]:
    """The distinct storages behind all tensors in ``result``: nested containers and objects with attributes."""
    found: dict[int, torch.UntypedStorage] = {}
    seen: set[int] = set()
    waiting = [result]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if value.layout == torch.strided:
                storage = value.untyped_storage()
                found.setdefault(storage._cdata, storage)
            continue
        leaves = _pytree.tree_leaves(value)
        if len(leaves) == 1 and leaves[0] is value:
            waiting.extend(getattr(value, "__dict__", {}).values())
        else:
            waiting.extend(leaves)
    return list(found.values())


def trace(call: Callable[[], Any], device: str = "cpu") -> AllocationTrace:
    """Run ``call`` once under the profiler and account for every block of ``device``.

    Warm it up first: a first call also takes what stays cached. The collector is off during the call, so garbage
    in reference cycles counts as alive until the call has returned.

    Args:
        call: takes nothing; its result is deleted here.
        device: "cpu" or "cuda" (on CUDA, sizes are the caching allocator's rounded blocks: gpu.py has exact ones).

    Returns:
        The trace. Cost: 2-7 times the call, plus about a millisecond.

    Raises:
        RuntimeError: the profiler is already on.
    """
    with quiet_collector(), engine_log() as log, profile(use_cpu=True, profile_memory=True) as profiler:
        with Span(CALL):
            result = call()
        result_bytes = sum(s.nbytes() for s in storages(result) if s.device.type == device)
        with Span(RELEASE):
            del result
        with Span(RELEASE):
            gc.collect()
    tree = profiler.kineto_results.experimental_event_tree()
    recorded = _Recorder(tree, device)
    return _account(recorded, log, result_bytes)


class _Recorder:
    """Reads the profiler's event tree once.

    Attributes:
        events: allocator events of the device, in order of time.
        spans: marker name -> intervals, in order of start.
        evaluated: (moment, sequence number) of each autograd node evaluated.
    """

    def __init__(self, roots: Sequence[Any], device: str) -> None:
        self.events: list[Event] = []
        self.spans: dict[str, list[tuple[int, int]]] = {CALL: [], RELEASE: [], ENGINE: [], TANGENTS: []}
        self.evaluated: list[tuple[int, int]] = []
        # Depth first, children in order: within a thread that is the order of time even where clock ticks tie.
        waiting = [(root, "-", "-") for root in reversed(roots)]
        while waiting:
            event, op, within = waiting.pop()
            if event.tag == _EventType.Allocation:
                self._allocation(event, op, within, device)
                continue
            if event.tag == _EventType.TorchOp:
                op, within = self._operator(event, op, within)
            waiting.extend((child, op, within) for child in reversed(event.children))
        self.events.sort(key=lambda e: e.moment)  # stable
        for intervals in self.spans.values():
            intervals.sort()

    def _allocation(self, event: Any, op: str, within: str, device: str) -> None:
        fields = event.extra_fields
        where = fields.device
        if where.type == device and fields.alloc_size != 0:
            block = (str(where), fields.ptr)
            who = within if op == "-" else op
            self.events.append(Event(event.start_time_ns, fields.alloc_size, block, who, within))

    def _operator(self, event: Any, op: str, within: str) -> tuple[str, str]:
        """The operator and its surrounding as the children of this event see them."""
        name: str = event.name
        if name.startswith("aten::"):
            if op == "-" or not name.startswith(_FACTORIES):
                op = name
            if within == "-":
                within = name
        elif name.startswith(_EVALUATE):
            self.evaluated.append((event.start_time_ns, event.extra_fields.sequence_number))
            op, within = "-", name.removeprefix(_EVALUATE).removeprefix("torch::autograd::")
        elif name in self.spans:
            self.spans[name].append((event.start_time_ns, event.end_time_ns))
        elif within == "-":
            within = name  # an operator of another library, a custom Function, a named range of f's own
        return op, within


def _account(recorded: _Recorder, log: EngineLog, result_bytes: int) -> AllocationTrace:
    """Replay the events: once for the sums and the moment of the peak, once more up to it for who held it."""
    end_of_call = recorded.spans[CALL][0][1]
    end_of_delete = recorded.spans[RELEASE][0][1]
    alive: dict[tuple[str, int], int] = {}
    now = peak = peak_at = total = count = 0
    returned = after_delete = 0
    for index, event in enumerate(recorded.events):
        if event.size > 0:
            alive[event.block] = event.size
            now += event.size
            total += event.size
            count += 1
            if now > peak:
                peak, peak_at = now, index
        else:
            now -= alive.pop(event.block, 0)
        if event.moment <= end_of_call:
            returned = now
        if event.moment <= end_of_delete:
            after_delete = now
    phases = Phases(recorded.spans[ENGINE], log, recorded.spans[TANGENTS], recorded.evaluated)
    return AllocationTrace(
        peak_bytes=peak,
        result_bytes=result_bytes,
        returned_bytes=returned,
        retained_bytes=now,
        collected_bytes=after_delete - now,
        total_bytes=total,
        allocations=count,
        attribution=_attribute(recorded.events[: peak_at + 1] if peak else [], phases),
        left=_attribute(recorded.events if now else [], phases),
    )


def _attribute(events: Sequence[Event], phases: Phases) -> tuple[Held, ...]:
    """Who took the blocks that are alive after ``events``."""
    alive: dict[tuple[str, int], Event] = {}
    for event in events:
        if event.size > 0:
            alive[event.block] = event
        else:
            alive.pop(event.block, None)
    rows: dict[tuple[str, str, str], list[int]] = {}
    for event in alive.values():
        key = (phases.name(event.moment), event.op, event.within)
        rows.setdefault(key, []).append(event.size)
    held = (Held(*key, bytes=sum(sizes), blocks=len(sizes)) for key, sizes in rows.items())
    return tuple(sorted(held, key=lambda h: (-h.bytes, h.phase, h.op, h.within)))
