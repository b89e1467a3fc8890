"""A pretended GPU and its driver, which write down what is asked of them."""

from __future__ import annotations

import types
from typing import Any

from hograd_bench.metrics import gpu

UUID = "11111111-2222-3333-4444-555555555555"


class Machine:
    """A pretended GPU: a call takes 1 ms warm and 3 ms after a flush, and draws 100 W; everything is written down."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.clock = 0.0
        self.flushed = False
        self.alive, self.peak = 1000, 5000  # bytes before; a peak left by earlier work
        self.counter_step = 0.02  # seconds between moves of the energy counter

    def call(self) -> None:
        self.log.append("call")
        self.clock += 0.003 if self.flushed else 0.001
        self.flushed = False
        self.peak = max(self.peak, self.alive + 640)

    def energy_mj(self) -> int:
        return int(100_000 * (self.clock // self.counter_step) * self.counter_step)


class FakeEvent:
    def __init__(self, machine: Machine) -> None:
        self.machine, self.at = machine, -1.0

    def record(self) -> None:
        self.machine.log.append("record")
        self.at = self.machine.clock

    def synchronize(self) -> None:
        self.machine.log.append("event.synchronize")

    def elapsed_time(self, end: FakeEvent) -> float:
        return (end.at - self.at) * 1000


class FakeCuda(gpu.Cuda):
    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def synchronize(self) -> None:
        self.machine.log.append("synchronize")

    def event(self) -> Any:
        return FakeEvent(self.machine)

    def reset_peak(self) -> None:
        self.machine.log.append("reset")
        self.machine.peak = self.machine.alive

    def stats(self) -> dict[str, int]:
        m = self.machine
        found = {"reserved_bytes.all.peak": 2**21}
        for key, unit in (("requested_bytes", 1), ("allocated_bytes", 2)):
            found |= {f"{key}.all.peak": m.peak * unit, f"{key}.all.current": m.alive * unit}
        return found

    def flush_buffer(self) -> Any:
        def zero() -> None:
            self.machine.log.append("flush")
            self.machine.flushed = True

        return types.SimpleNamespace(zero_=zero)

    def uuid(self) -> str:
        return UUID

    def now(self) -> float:
        self.machine.clock += 1e-5  # looking at the clock takes time too, or a burst of nothing would never end
        return self.machine.clock


class NVMLError(Exception):
    pass


def fake_nvml(machine: Machine, **replaced: Any) -> types.ModuleType:
    module = types.ModuleType("pynvml")

    def unsupported(*_: Any) -> Any:
        raise NVMLError("Not Supported")

    functions: dict[str, Any] = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: machine.log.append("init"),
        "nvmlShutdown": lambda: machine.log.append("shutdown"),
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{UUID}" if handle == 1 else b"GPU-0",
        "nvmlDeviceGetMigMode": unsupported,
        "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1980, 2: 2619}[kind],
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x1 | 0x4 | 0x40,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 55,
        "nvmlDeviceGetPowerUsage": lambda handle: 345_600,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: machine.energy_mj(),
        **replaced,
    }
    for name, function in functions.items():
        if function is not None:
            setattr(module, name, function)
    return module
