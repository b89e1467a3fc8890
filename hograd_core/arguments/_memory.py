"""A limit of memory, and the chunk of what is vectorised that keeps to it.

What a chunk of c items takes at its peak, beyond what stays, is the largest of some a + b c, one for each phase of the
computation, so that r c of them take at most r times as much. Chunks are measured as they are computed: one item, which
takes what stays until the end as well, one more, and then as many as that bound allows, until it allows hardly more
than before. Nothing is computed twice, and the limit is kept to on the way. The allocator is read by the profiler.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import profile

from hograd_core._entrance import kept
from hograd_core.arguments import _tree

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_TEXT = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?i?)b?\s*", re.IGNORECASE)
_WORTH_A_LOOK = 2**26
"""Bytes of a result below which nobody asks how many are free."""


class MemoryBudgetError(MemoryError):
    """A computation cannot keep to its limit of memory.

    Attributes:
        needed: bytes that it takes at the least. budget: bytes that it may take.
        remedy: what to do instead.
    """

    def __init__(self, what: str, needed: int, there_is: str, budget: int, remedy: str) -> None:
        super().__init__(f"{what} needs {in_words(needed)}, {there_is}; {remedy}")
        self.needed, self.budget, self.remedy = needed, budget, remedy


def in_words(size: float) -> str:
    """Bytes as people read them: ``3.64 TiB``."""
    unit = next((u for u in ("TiB", "GiB", "MiB", "KiB") if size >= _UNITS[u[:2].lower()]), "")
    return f"{size / _UNITS[unit[:2].lower()]:.3g} {unit}" if unit else f"{size:.0f} bytes"


def free_memory(device: torch.device) -> int | None:
    """Bytes that a program may still take on a device; None: it cannot be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    found = [_available(), *(_left_of_group(*names) for names in _GROUPS)]
    known = [size for size in found if size is not None]
    return min(known, default=None)


_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
"""Where Linux says what a container may take, what it takes, and how much of that are files it can drop."""


def _available() -> int | None:
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
        return int(found[1]) * 1024 if found else None
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None


def _left_of_group(limit: str, taken: str, parts: str) -> int | None:
    try:
        most, now, stat = (Path(name).read_text(encoding="ascii") for name in (limit, taken, parts))
    except OSError:
        return None
    files = re.search(r"^(?:total_)?inactive_file (\d+)$", stat, re.MULTILINE)
    return int(most) - int(now) + (int(files[1]) if files else 0) if most.strip().isdigit() else None


def as_bytes(memory: Any, device: torch.device) -> int:
    """A limit as people write it: a number of bytes, ``"2GiB"``, ``"500 MB"``, or ``"free"`` for what is free now.

    Raises:
        TypeError: neither a number nor text.
        ValueError: text that says no size, or not above 0.
    """
    found: int | None = None
    if memory == "free":
        found = free_memory(device)
        if found is None:
            raise ValueError(f'memory: got "free", which cannot be told on {device}; give a size like "2GiB"')
    elif isinstance(memory, str):
        size = _TEXT.fullmatch(memory)
        found = int(float(size[1]) * _UNITS[size[2].lower()]) if size else None
    elif isinstance(memory, int) and not isinstance(memory, bool):
        found = memory
    else:
        raise TypeError(f'memory: got {type(memory).__name__}, expected bytes as an int, a text like "2GiB", or "free"')
    if found is None or found <= 0:
        raise ValueError(f'memory: got {memory!r}, expected bytes > 0, a text like "2GiB" or "500 MB", or "free"')
    return found


class Budget:
    """A limit of what a call may take beyond what was alive when it began, its result included.

    Args:
        limit: bytes.
        where: operator and method, for messages.

    Raises:
        RuntimeError: the profiler, by which the allocator is read, is in use.
    """

    def __init__(self, limit: int, where: str) -> None:
        self.limit, self.where = limit, where
        self.held = 0
        self._profile: Any = None
        self._start()

    def _start(self) -> None:
        if torch._C._autograd._profiler_enabled():
            raise RuntimeError(
                f"memory: {self.where} measures its chunks by the profiler, which is in use; give chunk_size instead"
            )
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or it writes a line to stderr at each start and stop
        self._profile = profile(use_cpu=True, profile_memory=True)
        self._profile.__enter__()

    def stop(self) -> int:
        """End the measurement under way; most bytes alive at once since it began, with those held before, or 0."""
        if self._profile is None:
            return 0
        ended, self._profile = self._profile, None
        ended.__exit__(None, None, None)
        now = peak = 0
        taken: dict[int, int] = {}
        waiting, events = [*reversed(ended.kineto_results.experimental_event_tree())], []
        while waiting:  # depth first: in order, where clock ticks tie
            event = waiting.pop()
            waiting.extend(reversed(event.children))
            if event.tag == torch._C._profiler._EventType.Allocation:
                events.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
        for _, block, size in sorted(events, key=lambda event: event[0]):
            now += size if size > 0 else -taken.pop(block, 0)
            if size > 0:
                taken[block] = size
            peak = max(peak, now)
        peak, self.held = self.held + peak, self.held + now
        return peak

    def slices(self, total: int) -> Iterator[slice]:
        """``range(total)`` in slices, each as large as is known to keep to the limit.

        Raises:
            MemoryBudgetError: not even one item at a time does.
        """
        self.stop()
        size, done, staying, settled = 1, 0, 0, False
        while done < total:
            stop, before = min(done + size, total), self.held
            peak = 0
            if not settled:
                self._start()
            try:
                yield slice(done, stop)
            finally:
                peak = self.stop()
            if peak > self.limit and stop == done + 1:
                remedy = "raise the limit, use a method that holds less, or products with vectors in place of a matrix"
                there_is = f"the limit is {in_words(self.limit)}"
                raise MemoryBudgetError(self.where, peak, there_is, self.limit, remedy)
            if not done:  # the first takes what stays until the end
                staying = self.held
            elif not settled:  # what a chunk leaves behind is there while the next is computed
                needed = peak - before + max(self.held - staying, 0)
                larger = max(1, size * (self.limit - staying) // max(needed, 1))
                settled = larger <= 1.25 * size
                size = larger
            done = stop


def slices(total: int, chunk_size: int | Budget | None) -> Iterator[slice]:
    """``range(total)`` in slices of ``chunk_size``; None: all at once; a budget: of what it allows."""
    if isinstance(chunk_size, Budget):
        yield from chunk_size.slices(total)
        return
    size = total if chunk_size is None else chunk_size
    yield from (slice(start, min(start + size, total)) for start in range(0, total, size))


def in_chunks(
    piece: Callable[[slice], Any], total: int, chunk_size: int | Budget | None, out: Tensor | None = None
) -> Any:
    """``piece(part)`` over the slices of ``range(total)``, joined along the first axis of its tensors.

    Args:
        piece: the results of some items, tensors with these along their first axis, or a structure of them.
        total: how many items there are, >= 1.
        chunk_size: how many of them at a time; see :func:`slices`.
        out: where the results go, of first axis ``total``; None: new memory, taken once.
    """
    if out is None and (chunk_size is None or (isinstance(chunk_size, int) and chunk_size >= total)):
        return piece(slice(0, total))
    joined, parts = out, []
    for part in slices(total, chunk_size):
        found = piece(part)
        if out is None and (kept() or any(t.layout is not torch.strided for t in _tree.leaves(found))):
            parts.append(found)
            continue
        if joined is None:
            joined = _tree.mapped(lambda t: t.new_empty((total, *t.shape[1:])), found)
        _tree.mapped(lambda whole, t, at=part: whole[at].copy_(t), joined, found)
        del found
    return _tree.mapped(lambda *each: torch.cat(each), *parts) if parts else joined


def check_fits(where: str, needed: int, device: torch.device, budget: Any = None) -> None:
    """Refuse a result that is larger than what is free, or than a budget, before it is allocated.

    Raises:
        MemoryBudgetError: the message says both sizes and the remedy.
    """
    what, remedy = f"{where}: the result alone", "use products with vectors (hvp, …) or hessian_diagonal"
    if isinstance(budget, Budget) and needed > budget.limit:
        raise MemoryBudgetError(what, needed, f"the limit is {in_words(budget.limit)}", budget.limit, remedy)
    if needed >= _WORTH_A_LOOK and (free := free_memory(device)) is not None and needed > free:
        raise MemoryBudgetError(what, needed, f"{in_words(free)} are free", free, remedy)
