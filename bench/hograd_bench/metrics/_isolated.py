"""Peak resident memory of one warm call in a process of its own: what PyTorch's allocator cannot see is in it.

Run as ``python -m hograd_bench.metrics._isolated`` with a request on stdin; :func:`resident_peak` does that.
Linux only: the kernel's high-water mark is reset before the call (``/proc/self/clear_refs``).
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hograd_bench import problems
from hograd_bench.cells import Cell
from hograd_bench.metrics._calls import warm
from hograd_bench.metrics._subject import Subject

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")

ENVIRONMENT = {
    # MKL keeps its scratch buffers between calls: a warm call would not be seen to take them.
    "MKL_DISABLE_FAST_MM": "1",
    # A fixed threshold makes malloc give blocks of 64 KiB and more back to the system at once, so that the
    # resident level before the call holds no reusable space that the call could take unseen.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


class IsolationError(RuntimeError):
    """The isolated process gave no figure; the message says why."""


@dataclass(frozen=True)
class Resident:
    """Resident memory round one call.

    Attributes:
        rise_bytes: high-water mark during the call, above the level just before it.
        before_bytes: that level: interpreter, torch, the problem's data.
    """

    rise_bytes: int
    before_bytes: int


def resident_peak(cell: Cell, problem_files: Sequence[Path] = (), timeout: float = 600.0) -> Resident:
    """Measure one warm call of ``cell`` in a fresh process; costs that process's start, seconds.

    Args:
        cell: what to call.
        problem_files: files that declare further problems.
        timeout: seconds after which the process is killed.

    Returns:
        See :class:`Resident`. Not reproducible to the byte: pages, and the kernel's own batching of counters.

    Raises:
        IsolationError: no such instrument on this system, or the process failed or overstayed.
    """
    if not _CLEAR.exists():
        raise IsolationError("peak RSS needs Linux (/proc/self/clear_refs)")
    request = json.dumps({"cell": cell.id, "problem_files": [str(path) for path in problem_files]})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hograd_bench.metrics._isolated"],
            input=request,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **ENVIRONMENT},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise IsolationError(f"the isolated process took more than {timeout:g} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise IsolationError(f"the isolated process ended with exit code {done.returncode}: {last}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return Resident(answer["rise_bytes"], answer["before_bytes"])


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise IsolationError(f"{_STATUS} has no {field}")


def measure_here(subject: Subject) -> Resident:
    """The rise of this process's resident memory in one warm call.

    Args:
        subject: the cell made callable.

    Returns:
        See :class:`Resident`.

    Raises:
        IsolationError: the high-water mark cannot be reset or read.
    """
    call = warm(subject)
    gc.collect()
    gc.disable()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError as error:
        raise IsolationError(f"the high-water mark cannot be reset: {error}") from error
    before = _status_bytes("VmRSS")
    result = call()
    peak = _status_bytes("VmHWM")
    del result
    gc.enable()
    return Resident(max(0, peak - before), before)


def main() -> None:
    """Answer one request from stdin as one line of JSON."""
    request = json.loads(sys.stdin.read())
    for path in request["problem_files"]:
        problems.load_file(path)
    cell = Cell.parse(request["cell"])
    torch.set_num_threads(cell.threads)
    resident = measure_here(Subject(cell))
    print(json.dumps({"rise_bytes": resident.rise_bytes, "before_bytes": resident.before_bytes}))


if __name__ == "__main__":
    main()
