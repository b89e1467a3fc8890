"""What the machine can do at best: copy bandwidth and matmul rate, measured once a run, for the roofline.

Williams, Waterman & Patterson 2009: a computation of F operations that moves B bytes takes at least
max(F / peak rate, B / peak bandwidth) seconds. The ceilings here are what torch itself reaches on this machine,
not the data sheet's: a STREAM-like copy (McCalpin 1995: bytes read plus bytes written, the hidden read of the
destination not counted) of arrays well beyond the last cache, the same within a cache, and a square matrix product
of each dtype. Most cells fit in a cache: held against the first bandwidth alone, they would beat the roof.
``environment.bound`` holds a cell against them.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hograd_bench import system_info, torch_state
from hograd_bench.cells import DTYPES

_SECONDS = 0.08  # for one ceiling; the best repetition counts
_LARGEST_SIDE = {"cpu": 1024, "cuda": 8192}
_GROW_UNTIL = {"cpu": 0.01, "cuda": 0.002}  # seconds of one product: then its overhead no longer shows


def measure(threads: Sequence[int] | None = None, dtypes: Sequence[str] = DTYPES) -> dict[str, Any]:
    """Ceilings of the CPU for each number of threads and, where there is one, of the GPU; takes about a second.

    Args:
        threads: intra-op thread counts; None: one, and as many as torch is set to.
        dtypes: dtypes of the matrix product; one that the device cannot multiply is null.

    Returns:
        ``{"cpu": {"1": ceiling, "2": ...}, "cuda": {"1": ceiling}}`` with ceiling =
        ``{"copy_bytes_per_s": float, "copy_bytes": int, "cached_copy_bytes_per_s": float, "cached_copy_bytes": int,
        "cache_bytes": int, "matmul_flop_per_s": {dtype: float | None}}``; ``copy_bytes`` is the size of each of the
        two arrays, ``cache_bytes`` of the last cache. The thread count of torch is as before when this returns.
    """
    counts = sorted({1, torch.get_num_threads()} if threads is None else set(threads))
    found: dict[str, Any] = {"cpu": {}}
    for count in counts:
        with torch_state.threads(count):
            found["cpu"][str(count)] = _ceiling("cpu", dtypes)
    if torch.cuda.is_available():
        found["cuda"] = {"1": _ceiling("cuda", dtypes)}
    return found


def _ceiling(device: str, dtypes: Sequence[str]) -> dict[str, Any]:
    last, inner, free = _caches(device)
    # Four times the last cache: hardly any of it is still there at the next pass. A quarter of an inner one: both fit.
    beyond, within = max(2**20, min(max(4 * last, 2**25), free // 16)), max(2**15, inner // 4)
    return {
        "copy_bytes_per_s": _copy(device, beyond, 1),
        "copy_bytes": beyond,
        "cached_copy_bytes_per_s": _copy(device, within, max(1, 2**22 // within)),
        "cached_copy_bytes": within,
        "cache_bytes": last,
        "matmul_flop_per_s": {dtype: _matmul(device, getattr(torch, dtype)) for dtype in dtypes},
    }


def _caches(device: str) -> tuple[int, int, int]:
    """Bytes of the last cache, of one further in that kernels are blocked for, and of free memory."""
    if device == "cuda":
        last = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or 2**25
        return last, last, torch.cuda.mem_get_info()[0]
    sizes = system_info.caches()
    last = max(sizes.values(), default=2**24)
    return last, sizes.get("L2", last), system_info.memory()["available_bytes"]


def _copy(device: str, size: int, repetitions: int) -> float:
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.zeros_like(source)  # both are written before they are timed: their pages exist

    def copies() -> None:
        for _ in range(repetitions):
            target.copy_(source)

    return 2 * source.nbytes * repetitions / _best(copies, device)


def _matmul(device: str, dtype: torch.dtype) -> float | None:
    side = 128
    while True:
        try:
            a = torch.ones(side, side, device=device).to(dtype)
            product = functools.partial(torch.mm, a, a.clone(), out=torch.empty_like(a))
            once = min(_timed(product, device) for _ in range(3))  # the first starts threads and packs weights
            if once >= _GROW_UNTIL[device] or side >= _LARGEST_SIDE[device]:
                return 2.0 * side**3 / _best(product, device)
        except RuntimeError:  # not implemented for this dtype, or no memory
            return None
        side *= 2


def _best(call: Callable[[], object], device: str) -> float:
    """Seconds of the fastest repetition: interference only ever adds."""
    _timed(call, device)
    best, spent, repetitions = float("inf"), 0.0, 0
    while spent < _SECONDS or repetitions < 3:
        seconds = _timed(call, device)
        best, spent, repetitions = min(best, seconds), spent + seconds, repetitions + 1
    return best


def _timed(call: Callable[[], object], device: str) -> float:
    with torch.no_grad():
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            call()
            end.record()
            end.synchronize()
            milliseconds: float = start.elapsed_time(end)
            return max(milliseconds / 1000, 1e-9)
        before = time.perf_counter()
        call()
        return max(time.perf_counter() - before, 1e-9)
