"""Memory of one warm call: peak, retained, total bytes from allocator events, who held them, what was saved.

Every figure is exact to the byte and the same in every process, for a build of torch, a number of threads and an
instruction set, or a GPU. Memory that libraries take outside PyTorch's allocator is looked for by a second
instrument (resident.py).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from hograd_bench.metrics._contract import Metric, Missing, Readings

if TYPE_CHECKING:
    from hograd_bench.metrics._subject import Subject
    from hograd_bench.metrics.gpu import Cuda

TURN = 1
PYTORCH_ONLY = True
ATTRIBUTION_ROWS = 40
"""Rows of the attribution kept; the rest is summed into one row, so that the sum stays the peak."""

_DEPENDS = ("torch", "threads", "isa", "device")
_EVENTS = "allocator events of one warm call (torch.profiler)"


def _bytes(
    name: str,
    description: str,
    instrument: str = _EVENTS,
    *,
    balance: bool = False,
    label: str = "",
) -> Metric:
    """A balance may be negative: a call that frees what was there before it."""
    return Metric(name, "B", True, instrument, description, _DEPENDS, nonnegative=not balance, label=label)


_HOOKS = "torch.autograd.graph.saved_tensors_hooks, by storage"
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
)


def measure(subject: Subject, cuda: Cuda | None = None) -> Readings:
    """Read every memory metric of the subject's cell.

    Args:
        subject: the cell made callable; its threads are as the caller pinned them.
        cuda: stands in for torch.cuda, in tests.

    Returns:
        Values for every metric; details ``peak_attribution`` (rows of phase, op, within, bytes, blocks that sum
        to ``peak_bytes``; on CUDA to the peak in the allocator's rounded blocks) and ``memory_flow``. Cost: two
        warm-up calls, one call under the profiler, one under hooks, and on CUDA one more.
    """
    from hograd_bench.metrics._allocations import trace
    from hograd_bench.metrics._calls import warm
    from hograd_bench.metrics.gpu import Cuda, requested

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
    if subject.cell.device != "cpu":
        readings.values |= requested(call, cuda or Cuda())
    rows = [asdict(held) for held in taken.attribution]
    if len(rows) > ATTRIBUTION_ROWS:
        rest = rows[ATTRIBUTION_ROWS - 1 :]
        summed = {"bytes": sum(r["bytes"] for r in rest), "blocks": sum(r["blocks"] for r in rest)}
        rows[ATTRIBUTION_ROWS - 1 :] = [{"phase": "other", "op": f"{len(rest)} rows", "within": "other", **summed}]
    readings.details["peak_attribution"] = rows
    readings.details["collected_bytes"] = taken.collected_bytes
    _read_saved(subject, readings)
    return readings


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
