"""CUDA cells: event times with a cold and a warm L2 cache, allocator peaks, and what NVML says meanwhile.

Peaks are read always, times and energy only where the cell is timed: they take a second, and a neighbour changes them.

Every reading comes after a warm-up (the first product allocates cuBLAS's workspace, the first kernels are loaded) and
after the device is idle. A cold round overwrites a buffer larger than the L2 cache between the calls, as triton's
do_bench and nvbench do; a warm round follows its predecessor at once. Times are per call, from events on the stream:
where a cell launches many small kernels, they contain the launch gaps that its user would wait for too.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hograd_bench.metrics import _nvml
from hograd_bench.metrics._contract import Metric, Missing, Readings, Value

if TYPE_CHECKING:
    import torch

    from hograd_bench.metrics._subject import Subject

TURN = 52
DEVICES = ("cuda",)
"""No row of a cell on another device has these columns at all."""
_DEPENDS = ("torch", "device")
_EVENTS = "torch.cuda.Event"
_STATS = "torch.cuda.memory_stats after reset_peak_memory_stats"


def _metric(
    name: str,
    unit: str,
    instrument: str,
    description: str,
    kind: str = "",
    *,
    deterministic: bool = False,
    direction: str = "lower",
) -> Metric:
    return Metric(name, unit, deterministic, instrument, description, _DEPENDS, kind, direction)


METRICS = (
    _metric("cuda_cold_seconds_min", "s", _EVENTS, "fastest call with a cold L2 cache"),
    _metric("cuda_cold_seconds_median", "s", _EVENTS, "median call with a cold L2 cache"),
    _metric("cuda_warm_seconds_min", "s", _EVENTS, "fastest call right after another, L2 cache warm"),
    _metric("cuda_warm_seconds_median", "s", _EVENTS, "median call right after another, L2 cache warm"),
    _metric("cuda_rounds", "1", _EVENTS, "number of calls of each kind", "count", direction=""),
    _metric("cuda_peak_requested_bytes", "B", _STATS, "peak bytes that tensors asked for, above those alive before",
            deterministic=True),
    _metric("cuda_peak_allocated_bytes", "B", _STATS, "the same rounded up to the allocator's blocks",
            deterministic=True),
    _metric("cuda_peak_reserved_bytes", "B", _STATS, "peak bytes that the allocator held from the driver, in all"),
    _metric("gpu_sm_mhz", "MHz", "NVML", "clock of the multiprocessors right after a burst of calls", direction=""),
    _metric("gpu_memory_mhz", "MHz", "NVML", "clock of the memory right after a burst of calls", direction=""),
    _metric("gpu_throttling", "1", "NVML", "what held the clock down right after a burst of calls, or none", "text",
            direction=""),
    _metric("gpu_celsius", "°C", "NVML", "temperature of the chip right after a burst of calls"),
    _metric("gpu_watts", "W", "NVML", "power of the board right after a burst of calls"),
    _metric("gpu_joules_per_call", "J", "NVML total energy", "energy of the board over a burst, per call"),
)  # fmt: skip

_WARM_UP = 3
_ROUNDS_SECONDS = 0.1  # of each kind
_MOST_ROUNDS, _FEWEST_ROUNDS = 200, 5
_BURST_SECONDS = 0.4
"""The energy counter moves every 20-100 ms (Yang, Adámek & Armour 2024, "Part-time power measurements"). The window is
several moves long and goes from a move to a move, so that the step does not count."""
_COUNTER_SECONDS = 0.25  # no move within this: the counter is not live
_MOST_AT_ONCE = 256  # calls in flight

_SAMPLES_KEPT = 200


class Cuda:
    """The calls to torch.cuda and the clock that this family makes; tests replace them."""

    def synchronize(self) -> None:
        """Wait for the device."""
        import torch

        torch.cuda.synchronize()

    def event(self) -> Any:
        """An event that can be timed."""
        import torch

        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def reset_peak(self) -> None:
        """Peaks start from what is allocated now."""
        import torch

        torch.cuda.reset_peak_memory_stats()

    def stats(self) -> dict[str, int]:
        """The allocator's figures."""
        import torch

        return dict(torch.cuda.memory_stats())

    def flush_buffer(self) -> torch.Tensor:
        """A buffer whose overwriting leaves nothing of a cell in the L2 cache: twice its size."""
        import torch

        size = getattr(torch.cuda.get_device_properties(), "L2_cache_size", 0) or 2**25
        return torch.empty(2 * size, dtype=torch.int8, device="cuda")

    def uuid(self) -> str:
        """UUID of the current device."""
        import torch

        return str(torch.cuda.get_device_properties().uuid)

    def now(self) -> float:
        """Seconds on a monotonic clock."""
        return time.perf_counter()


def measure(subject: Subject, cuda: Cuda | None = None, *, timed: bool = True) -> Readings:
    """Read the family for a CUDA cell.

    Args:
        subject: the cell; on the CPU every value is missing with that reason.
        cuda: stands in for torch.cuda, in tests.
        timed: whether the cell is timed, beside no other.

    Returns:
        Values and ``cuda_cold_samples_seconds``, ``cuda_warm_samples_seconds``.
    """
    if subject.cell.device == "cpu":
        return Readings({metric.name: Missing("cell runs on the CPU") for metric in METRICS})
    return read(subject.call, cuda or Cuda(), timed=timed)


def read(call: Callable[[], object], cuda: Cuda, *, timed: bool = True) -> Readings:
    """All figures of one call on the current CUDA device; about a second where it is timed."""
    for _ in range(_WARM_UP):
        call()
    cuda.synchronize()
    values: dict[str, Value] = dict(peaks(call, cuda))
    if not timed:
        untimed = Missing("the cell is not timed")
        return Readings({metric.name: values.get(metric.name, untimed) for metric in METRICS})
    cold, warm = rounds(call, cuda)
    values |= {
        "cuda_cold_seconds_min": min(cold), "cuda_cold_seconds_median": statistics.median(cold),
        "cuda_warm_seconds_min": min(warm), "cuda_warm_seconds_median": statistics.median(warm),
        "cuda_rounds": len(cold),
    }  # fmt: skip
    with _nvml.opened(cuda.uuid()) as device:
        values |= context(call, cuda, device, min(warm))
    return Readings(
        {metric.name: values[metric.name] for metric in METRICS},
        {
            "cuda_cold_samples_seconds": cold[:_SAMPLES_KEPT],
            "cuda_warm_samples_seconds": warm[:_SAMPLES_KEPT],
        },
    )


def peaks(call: Callable[[], object], cuda: Cuda) -> dict[str, Value]:
    """Allocator peaks of one call, above what was alive before it."""
    cuda.synchronize()
    cuda.reset_peak()
    before = cuda.stats()
    result = call()
    cuda.synchronize()
    after = cuda.stats()
    del result
    values: dict[str, Value] = {}
    for name, key in (("requested", "requested_bytes"), ("allocated", "allocated_bytes")):
        peak, start = f"{key}.all.peak", f"{key}.all.current"
        values[f"cuda_peak_{name}_bytes"] = (
            after[peak] - before[start]
            if peak in after and start in before
            else Missing(f"the allocator in use does not report {key}")
        )
    reserved = after.get("reserved_bytes.all.peak")
    values["cuda_peak_reserved_bytes"] = (
        Missing("the allocator in use does not report reserved_bytes") if reserved is None else reserved
    )
    return values


def requested(call: Callable[[], object], cuda: Cuda) -> dict[str, Value]:
    """What one call takes, as tensors asked for it: the memory family's figures, without the allocator's rounding."""
    cuda.synchronize()
    cuda.reset_peak()
    before = cuda.stats()
    result = call()
    cuda.synchronize()
    after = cuda.stats()
    del result
    gc.collect()
    left = cuda.stats()
    values: dict[str, Value] = {}
    for name, stats, key, start in (
        ("peak_bytes", after, "requested_bytes.all.peak", "requested_bytes.all.current"),
        ("returned_bytes", after, "requested_bytes.all.current", "requested_bytes.all.current"),
        ("retained_bytes", left, "requested_bytes.all.current", "requested_bytes.all.current"),
        ("total_bytes", after, "requested_bytes.all.allocated", "requested_bytes.all.allocated"),
        ("allocations", after, "allocation.all.allocated", "allocation.all.allocated"),
    ):
        values[name] = (
            stats[key] - before[start]
            if key in stats and start in before
            else Missing(f"the allocator in use does not report {key.partition('.')[0]}")
        )
    return values


def rounds(call: Callable[[], object], cuda: Cuda) -> tuple[list[float], list[float]]:
    """Seconds of calls with a cold and with a warm L2 cache, alternating so that drift meets both alike."""
    buffer = cuda.flush_buffer()
    once = _timed(call, cuda, lambda: None)
    count = int(min(_MOST_ROUNDS, max(_FEWEST_ROUNDS, _ROUNDS_SECONDS / max(once, 1e-7))))
    cold, warm = [], []
    for _ in range(count):
        cold.append(_timed(call, cuda, lambda: buffer.zero_()))
        warm.append(_timed(call, cuda, lambda: None))
    return cold, warm


def _timed(call: Callable[[], object], cuda: Cuda, prepare: Callable[[], object]) -> float:
    start, end = cuda.event(), cuda.event()
    prepare()
    cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def context(
    call: Callable[[], object], cuda: Cuda, device: _nvml.Device | Missing, seconds_per_call: float
) -> dict[str, Value]:
    """What NVML reports over and right after a burst of calls."""
    names = ("gpu_sm_mhz", "gpu_memory_mhz", "gpu_throttling", "gpu_celsius", "gpu_watts", "gpu_joules_per_call")
    if isinstance(device, Missing):
        return dict.fromkeys(names, device)
    cuda.synchronize()
    started, _ = _until_moved(device, cuda, call)
    calls = _burst(call, cuda, seconds_per_call)
    # Clocks, temperature and power before the device falls idle again; the counter after its next move.
    values: dict[str, Value] = {
        "gpu_sm_mhz": device.sm_clock(), "gpu_memory_mhz": device.memory_clock(),
        "gpu_throttling": device.throttling(), "gpu_celsius": device.temperature(), "gpu_watts": device.power(),
    }  # fmt: skip
    ended, more = _until_moved(device, cuda, call)
    if isinstance(started, Missing) or isinstance(ended, Missing):
        values["gpu_joules_per_call"] = started if isinstance(started, Missing) else ended
    else:
        values["gpu_joules_per_call"] = (ended - started) / (calls + more)
    return values


def _until_moved(device: _nvml.Device, cuda: Cuda, call: Callable[[], object]) -> tuple[float | Missing, int]:
    """Call until the energy counter moves: what it then says, and the number of calls made."""
    first, calls, deadline = device.energy(), 0, cuda.now() + _COUNTER_SECONDS
    if isinstance(first, Missing):
        return first, 0
    while calls == 0 or cuda.now() < deadline:
        call()
        cuda.synchronize()
        calls += 1
        now = device.energy()
        if isinstance(now, Missing) or now != first:
            return now, calls
    return Missing(f"the energy counter did not move within {_COUNTER_SECONDS:g} s"), calls


def _burst(call: Callable[[], object], cuda: Cuda, seconds_per_call: float) -> int:
    """Calls for about :data:`_BURST_SECONDS`, the device never idle for long; how many."""
    at_once = max(1, min(_MOST_AT_ONCE, int(0.01 / max(seconds_per_call, 1e-7))))
    deadline, calls = cuda.now() + _BURST_SECONDS, 0
    while calls == 0 or cuda.now() < deadline:
        for _ in range(at_once):
            call()
        cuda.synchronize()
        calls += at_once
    return calls
