"""Peak of resident memory in one warm call: what PyTorch's allocator cannot see is in it. Linux only.

It is measured in a process of its own (``VARIABLES``), where ``hograd run --resident`` asks for it: the level before
the call must hold no reusable space that the call could take unseen.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import TYPE_CHECKING

from hograd_bench.metrics._contract import Metric, Missing, Readings

if TYPE_CHECKING:
    from hograd_bench.metrics._subject import Subject

VARIABLES = {
    # MKL keeps its scratch buffers between calls: a warm call would not be seen to take them.
    "MKL_DISABLE_FAST_MM": "1",
    # A fixed threshold makes malloc give blocks of 64 KiB and more back to the system at once.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}

UNSEEN_THRESHOLD = 2**20
UNSEEN_SHARE = 0.05
"""A rise of resident memory over ``peak_bytes`` is stated as unseen when it exceeds both a mebibyte and 5% of
the peak: below that it is pages, the kernel's batched counters and malloc's own bookkeeping (docs/measurement.md)."""

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RSS = "VmHWM reset before one warm call in a process of its own (Linux)"
_DEPENDS = ("torch", "threads", "isa", "device")
METRICS = (
    Metric(
        "peak_rss_bytes",
        "B",
        False,  # pages, and the kernel's own batching of counters
        _RSS,
        "rise of the resident high-water mark in one warm call",
        _DEPENDS,
    ),
    Metric(
        "unseen_bytes",
        "B",
        False,
        _RSS,
        "peak_rss_bytes above peak_bytes where it exceeds 1 MiB and 5%: memory outside PyTorch's allocator",
        _DEPENDS,
    ),
)


def measure(subject: Subject) -> Readings:
    """The rise of this process's resident memory in one warm call, and what of it PyTorch's allocator did not see."""
    from hograd_bench.metrics._allocations import trace
    from hograd_bench.metrics._calls import warm

    call = warm(subject)
    gc.collect()
    gc.disable()
    try:
        if hasattr(ctypes.CDLL(None), "malloc_trim"):
            ctypes.CDLL(None).malloc_trim(0)
        _CLEAR.write_text("5", encoding="ascii")  # the high-water mark begins anew
        before = _status_bytes("VmRSS")
        result = call()
        rise = max(0, _status_bytes("VmHWM") - before)
        del result
    except OSError as error:
        why = Missing(f"the high-water mark of resident memory cannot be reset and read (needs Linux): {error}")
        return Readings({metric.name: why for metric in METRICS})
    finally:
        gc.enable()
    seen = trace(call, subject.cell.device).peak_bytes
    return Readings({"peak_rss_bytes": rise, "unseen_bytes": unseen(seen, rise)})


def unseen(peak_bytes: int, peak_rss_bytes: int) -> int:
    """Bytes outside PyTorch's allocator, 0 where the two instruments agree within the stated threshold."""
    excess = peak_rss_bytes - peak_bytes
    return excess if excess > max(UNSEEN_THRESHOLD, UNSEEN_SHARE * peak_bytes) else 0


def _status_bytes(name: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {name}")
