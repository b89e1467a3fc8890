"""Memory of one warm call: peak, retained, total bytes from allocator events, who held them, what was saved.

On the CPU every figure is exact to the byte and the same in every process, for a build of torch, a number of
threads and an instruction set. Memory that libraries take outside PyTorch's allocator is looked for by a
second instrument, in a process of its own, where the caller asks for it (``isolate=True``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hograd_bench.cells import Cell
from hograd_bench.metrics._contract import Metric, Missing, Readings

if TYPE_CHECKING:
    from hograd_bench.metrics._subject import Subject

TURN = 1
PYTORCH_ONLY = True
ATTRIBUTION_ROWS = 40
"""Rows of the attribution kept; the rest is summed into one row, so that the sum stays the peak."""

UNSEEN_THRESHOLD = 2**20
UNSEEN_SHARE = 0.05
"""A rise of resident memory over ``peak_bytes`` is stated as unseen when it exceeds both a mebibyte and 5% of
the peak: below that it is pages, the kernel's batched counters and malloc's own bookkeeping (docs/measurement.md)."""

_DEPENDS = ("torch", "threads", "isa", "device")
_EVENTS = "allocator events of one warm call (torch.profiler)"


def _bytes(
    name: str,
    description: str,
    instrument: str = _EVENTS,
    *,
    deterministic: bool = True,
    balance: bool = False,
    label: str = "",
) -> Metric:
    """A balance may be negative: a call that frees what was there before it."""
    return Metric(name, "B", deterministic, instrument, description, _DEPENDS, nonnegative=not balance, label=label)


_HOOKS = "torch.autograd.graph.saved_tensors_hooks, by storage"
_RSS = "VmHWM reset before one warm call in an isolated process (Linux)"
METRICS = (
    _bytes("peak_bytes", "most bytes alive at once in blocks that the call took, its result included", label="peak"),
    _bytes("result_bytes", "bytes of the storages behind the result", "untyped_storage().nbytes()"),
    _bytes(
        "returned_bytes", "alive when the call returned: result, kept graphs, garbage in cycles, leaks", balance=True
    ),
    _bytes("retained_bytes", "still alive after the result was deleted and garbage collected: leaks", balance=True),
    _bytes("total_bytes", "sum over all blocks taken", label="total"),
    Metric("allocations", "1", True, _EVENTS, "number of blocks taken", _DEPENDS, kind="count", label="allocations"),
    _bytes("saved_bytes", "saved for backward over the whole call, each storage once", _HOOKS),
    _bytes("saved_new_bytes", "of saved_bytes, in storages that the call made", _HOOKS),
    _bytes("peak_rss_bytes", "rise of the resident high-water mark in one warm call", _RSS, deterministic=False),
    _bytes(
        "unseen_bytes",
        "peak_rss_bytes above peak_bytes where it exceeds 1 MiB and 5%: memory outside PyTorch's allocator",
        _RSS,
        deterministic=False,
    ),
)


def measure(subject: Subject, *, isolate: bool = False, problem_files: Sequence[Path] = ()) -> Readings:
    """Read every memory metric of the subject's cell.

    Args:
        subject: the cell made callable; its threads are as the caller pinned them.
        isolate: also measure peak RSS in a process of its own (seconds), else those metrics are missing.
        problem_files: files of problems that the isolated process must load.

    Returns:
        Values for every metric; details ``peak_attribution`` (rows of phase, op, within, bytes, blocks that sum
        to ``peak_bytes``) and ``memory_flow``. Cost: two warm-up calls, one call under the profiler, one under hooks.
    """
    from hograd_bench.metrics._allocations import trace
    from hograd_bench.metrics._calls import warm

    call = warm(subject)
    taken = trace(call, subject.cell.device)
    readings = Readings(
        {
            "peak_bytes": taken.peak_bytes,
            "result_bytes": taken.result_bytes,
            "returned_bytes": taken.returned_bytes,
            "retained_bytes": taken.retained_bytes,
            "total_bytes": taken.total_bytes,
            "allocations": taken.allocations,
        }
    )
    rows = [asdict(held) for held in taken.attribution]
    if len(rows) > ATTRIBUTION_ROWS:
        rest = rows[ATTRIBUTION_ROWS - 1 :]
        summed = {"bytes": sum(r["bytes"] for r in rest), "blocks": sum(r["blocks"] for r in rest)}
        rows[ATTRIBUTION_ROWS - 1 :] = [{"phase": "other", "op": f"{len(rest)} rows", "within": "other", **summed}]
    readings.details["peak_attribution"] = rows
    readings.details["collected_bytes"] = taken.collected_bytes
    _read_saved(subject, readings)
    if isolate:
        _read_resident(subject.cell, taken.peak_bytes, readings, problem_files)
    else:
        readings.values.update({name: Missing("not requested") for name in ("peak_rss_bytes", "unseen_bytes")})
    return readings


def peak_rss(cell: Cell, problem_files: Sequence[Path] = ()) -> int:
    """Rise of the resident high-water mark in one warm call of ``cell``, in a process of its own.

    Args:
        cell: what to call.
        problem_files: files that declare further problems.

    Returns:
        Bytes; reproducible to about a mebibyte. Costs the start of a process, seconds.

    Raises:
        IsolationError: no such instrument on this system, or the process failed.
    """
    from hograd_bench.metrics import _isolated

    return _isolated.resident_peak(cell, problem_files).rise_bytes


def unseen(peak_bytes: int, peak_rss_bytes: int) -> int:
    """Bytes outside PyTorch's allocator, 0 where the two instruments agree within the stated threshold."""
    excess = peak_rss_bytes - peak_bytes
    return excess if excess > max(UNSEEN_THRESHOLD, UNSEEN_SHARE * peak_bytes) else 0


def _read_saved(subject: Subject, readings: Readings) -> None:
    from hograd_bench.metrics._calls import warm
    from hograd_bench.metrics._saved import saved_for_backward
    from hograd_core import UnsupportedError
    from hograd_core._unsupported import pytorch_limit

    try:
        saved = saved_for_backward(warm(subject))
    except RuntimeError as error:
        reason = error.reason if isinstance(error, UnsupportedError) else pytorch_limit(error)
        if reason is None or not reason.startswith("saved-tensor hooks barred"):
            raise
        readings.values.update({name: Missing(reason) for name in ("saved_bytes", "saved_new_bytes")})
        return
    readings.values["saved_bytes"] = saved.bytes
    readings.values["saved_new_bytes"] = saved.bytes - saved.older_bytes
    readings.details["saved_tensors"] = saved.tensors


def _read_resident(cell: Cell, peak_bytes: int, readings: Readings, problem_files: Sequence[Path]) -> None:
    from hograd_bench.metrics import _isolated

    try:
        rise = peak_rss(cell, problem_files)
    except _isolated.IsolationError as error:
        readings.values.update({name: Missing(str(error)) for name in ("peak_rss_bytes", "unseen_bytes")})
        return
    readings.values["peak_rss_bytes"] = rise
    readings.values["unseen_bytes"] = unseen(peak_bytes, rise)
