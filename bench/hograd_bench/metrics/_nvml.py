"""NVML behind a few small functions: what it says about one GPU, or why it says nothing.

NVML counts physical devices in PCI order; torch counts visible ones. They are matched by UUID, never by index.
Figures are of the whole device, neighbours on it included: context for a time, never evidence on their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from hograd_bench.metrics._contract import Missing

T = TypeVar("T")

# Bits of nvmlDeviceGetCurrentClocksEventReasons that say the clock is below what was asked for.
# (nvml.h, nvmlClocksEventReasons; idle and a user's own setting are not throttling.)
THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


@dataclass(frozen=True)
class Device:
    """One GPU as NVML sees it.

    Attributes:
        nvml: the pynvml module.
        handle: the device's handle there.
        partition: whether torch runs on a MIG slice of it; clocks and power are then not the slice's own.
    """

    nvml: Any
    handle: Any
    partition: bool = False

    def sm_clock(self) -> int | Missing:
        """MHz of the multiprocessors now."""
        return self._ask("the clock", lambda: int(self.nvml.nvmlDeviceGetClockInfo(self.handle, 1)))

    def memory_clock(self) -> int | Missing:
        """MHz of the memory now."""
        return self._ask("the clock", lambda: int(self.nvml.nvmlDeviceGetClockInfo(self.handle, 2)))

    def throttling(self) -> str | Missing:
        """Why the clock is held down now, comma-separated; "none" where it is not."""

        def read() -> str:
            name = "nvmlDeviceGetCurrentClocksEventReasons"  # so called since driver 535, ThrottleReasons before
            query = getattr(self.nvml, name, None) or self.nvml.nvmlDeviceGetCurrentClocksThrottleReasons
            bits = int(query(self.handle))
            return ", ".join(reason for bit, reason in THROTTLING.items() if bits & bit) or "none"

        return self._ask("throttle reasons", read)

    def temperature(self) -> int | Missing:
        """Degrees Celsius of the chip now."""
        return self._ask("the temperature", lambda: int(self.nvml.nvmlDeviceGetTemperature(self.handle, 0)))

    def power(self) -> float | Missing:
        """Watts drawn by the board, averaged by the driver over up to a second."""
        return self._ask("power", lambda: self.nvml.nvmlDeviceGetPowerUsage(self.handle) / 1000)

    def energy(self) -> float | Missing:
        """Joules that the board has drawn since the driver was loaded (Volta and later), in steps of a millijoule."""
        return self._ask("energy", lambda: self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1000)

    def _ask(self, what: str, read: Callable[[], T]) -> T | Missing:
        if self.partition:
            return Missing(f"{what} is not reported for a MIG partition")
        try:
            return read()
        except (self.nvml.NVMLError, AttributeError, TypeError, ValueError) as error:
            return Missing(f"NVML does not report {what} here: {error or type(error).__name__}")


@contextmanager
def opened(uuid: str) -> Iterator[Device | Missing]:
    """NVML's device of that UUID for the length of the block, or why there is none.

    Args:
        uuid: as torch has it, with or without the prefix ``GPU-`` or ``MIG-``.
    """
    try:
        import pynvml
    except ImportError:
        yield Missing("NVML is missing: pynvml is not installed (pip install nvidia-ml-py)")
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield Missing(f"NVML is missing: {error}")
        return
    try:
        yield find(pynvml, uuid)
    finally:
        pynvml.nvmlShutdown()


def find(nvml: Any, uuid: str) -> Device | Missing:
    """The device of that UUID among all of NVML's, MIG partitions included."""
    wanted = _plain(uuid)
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            if _plain(nvml.nvmlDeviceGetUUID(handle)) == wanted:
                return Device(nvml, handle, partition=_has_partitions(nvml, handle))
            for part in _partitions(nvml, handle):
                if _plain(nvml.nvmlDeviceGetUUID(part)) == wanted:
                    return Device(nvml, part, partition=True)
    except nvml.NVMLError as error:
        return Missing(f"NVML does not list its devices: {error}")
    return Missing(f"NVML knows no device {uuid}")


def _has_partitions(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except (nvml.NVMLError, AttributeError):
        return False


def _partitions(nvml: Any, handle: Any) -> Iterator[Any]:
    if not _has_partitions(nvml, handle):
        return
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError:  # this slot holds no partition
            continue


def _plain(uuid: Any) -> str:
    text = uuid.decode() if isinstance(uuid, bytes) else str(uuid)
    return text.lower().removeprefix("gpu-").removeprefix("mig-")
