"""The GPU family: the order of its calls by fakes anywhere, its figures for real where there is a GPU."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gpu_fakes import UUID, FakeCuda, Machine, NVMLError, fake_nvml
from hograd_bench.cells import Cell
from hograd_bench.metrics import Missing, Subject, _nvml, counts, gpu, memory, metrics
from hograd_bench.metrics import time as timing
from hograd_bench.metrics._allocations import trace
from hograd_bench.metrics._contract import Readings

HVP = "derivative_vector_product"
NAMES = {metric.name for metric in gpu.METRICS}


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def install(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def put(**replaced: Any) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(machine, **replaced))

    put()
    return put


@pytest.fixture
def readings(machine: Machine, install: Any) -> Readings:
    return gpu.read(machine.call, FakeCuda(machine))


def missing(value: Any) -> str:
    assert isinstance(value, Missing)
    return value.reason


def test_every_metric_has_a_value(readings: Readings) -> None:
    assert set(readings.values) == NAMES
    assert not [v for v in readings.values.values() if isinstance(v, Missing)]


def test_warm_up_and_synchronisation_come_before_the_first_reading(machine: Machine, readings: Readings) -> None:
    assert machine.log[:4] == ["call", "call", "call", "synchronize"]
    reset = machine.log.index("reset")
    assert machine.log[reset - 1 : reset + 3] == ["synchronize", "reset", "call", "synchronize"]
    assert "record" not in machine.log[:reset]


def test_peaks_are_above_what_was_alive_and_forget_earlier_peaks(readings: Readings) -> None:
    assert readings.values["cuda_peak_requested_bytes"] == 640
    assert readings.values["cuda_peak_allocated_bytes"] == 1280
    assert readings.values["cuda_peak_reserved_bytes"] == 2**21


def test_cold_calls_follow_a_flush_outside_the_timed_span_and_warm_ones_a_call(
    machine: Machine, readings: Readings
) -> None:
    assert readings.values["cuda_cold_seconds_min"] == pytest.approx(0.003)
    assert readings.values["cuda_warm_seconds_median"] == pytest.approx(0.001)
    assert readings.values["cuda_rounds"] == 100
    assert readings.details["cuda_cold_samples_seconds"] == pytest.approx([0.003] * 100)
    flush = machine.log.index("flush")
    cold = ["flush", "synchronize", "record", "call", "record", "event.synchronize"]
    assert machine.log[flush : flush + 12] == cold + cold[1:] + ["flush"]


def test_a_long_call_has_few_rounds(machine: Machine, install: Any) -> None:
    def slow() -> None:
        machine.call()
        machine.clock += 1.0

    assert gpu.rounds(slow, FakeCuda(machine))[0] == pytest.approx([1.003] * 5)


def test_context_and_energy(machine: Machine, readings: Readings) -> None:
    values = readings.values
    assert (values["gpu_sm_mhz"], values["gpu_memory_mhz"], values["gpu_celsius"]) == (1980, 2619, 55)
    assert values["gpu_watts"] == pytest.approx(345.6)
    assert values["gpu_throttling"] == "power cap, hardware thermal slowdown"
    # 100 W for 1 ms a call; the window goes from a move of the counter to a move, so its step does not show.
    assert values["gpu_joules_per_call"] == pytest.approx(0.1, rel=0.03)
    assert machine.log[-1] == "shutdown"


@pytest.mark.parametrize("step", [0.017, 0.05, 0.09, 0.13, 0.21])
def test_the_step_of_the_energy_counter_does_not_show(machine: Machine, install: Any, step: float) -> None:
    machine.counter_step = step
    joules = gpu.read(machine.call, FakeCuda(machine)).values["gpu_joules_per_call"]
    assert joules == pytest.approx(0.1, rel=0.03)


def test_not_throttled_is_said(machine: Machine, install: Any) -> None:
    install(nvmlDeviceGetCurrentClocksEventReasons=lambda handle: 0x1)
    assert gpu.read(machine.call, FakeCuda(machine)).values["gpu_throttling"] == "none"


def test_older_drivers_call_throttle_reasons_otherwise(machine: Machine, install: Any) -> None:
    install(
        nvmlDeviceGetCurrentClocksEventReasons=None,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 0x80,
    )
    assert gpu.read(machine.call, FakeCuda(machine)).values["gpu_throttling"] == "hardware power brake"


def test_what_nvml_does_not_report_is_missing_with_its_reason(machine: Machine, install: Any) -> None:
    def unsupported(*_: Any) -> Any:
        raise NVMLError("Not Supported")

    install(nvmlDeviceGetTotalEnergyConsumption=unsupported, nvmlDeviceGetPowerUsage=unsupported)
    values = gpu.read(machine.call, FakeCuda(machine)).values
    assert missing(values["gpu_joules_per_call"]) == "NVML does not report energy here: Not Supported"
    assert "power" in missing(values["gpu_watts"])
    assert values["gpu_sm_mhz"] == 1980


def test_a_counter_that_stands_still_is_missing(machine: Machine, install: Any) -> None:
    machine.counter_step = 1e9
    values = gpu.read(machine.call, FakeCuda(machine)).values
    assert missing(values["gpu_joules_per_call"]) == "the energy counter did not move within 0.25 s"


def test_a_mig_partition_reports_no_clock_of_its_own(machine: Machine, install: Any) -> None:
    install(
        nvmlDeviceGetUUID=lambda handle: f"MIG-{UUID}" if handle == "slice" else "GPU-other",
        nvmlDeviceGetMigMode=lambda handle: [1, 1] if handle == 1 else [0, 0],
        nvmlDeviceGetMaxMigDeviceCount=lambda handle: 1,
        nvmlDeviceGetMigDeviceHandleByIndex=lambda handle, index: "slice",
    )
    values = gpu.read(machine.call, FakeCuda(machine)).values
    assert missing(values["gpu_sm_mhz"]) == "the clock is not reported for a MIG partition"
    assert missing(values["gpu_joules_per_call"]) == "energy is not reported for a MIG partition"
    assert values["cuda_peak_requested_bytes"] == 640


def test_without_nvml_the_times_and_bytes_stand(
    machine: Machine, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    values = gpu.read(machine.call, FakeCuda(machine)).values
    assert "pynvml is not installed" in missing(values["gpu_watts"])
    assert values["cuda_rounds"] == 100


def test_without_a_driver_and_with_a_stranger_s_uuid(machine: Machine, install: Any) -> None:
    def absent() -> None:
        raise NVMLError("NVML Shared Library Not Found")

    install(nvmlInit=absent)
    with _nvml.opened(UUID) as device:
        assert missing(device) == "NVML is missing: NVML Shared Library Not Found"
    install()
    with _nvml.opened("GPU-of-another") as device:
        assert missing(device) == "NVML knows no device GPU-of-another"


def test_an_allocator_without_requested_bytes_is_missing(machine: Machine) -> None:
    class Other(FakeCuda):
        def stats(self) -> dict[str, int]:
            return {k: v for k, v in super().stats().items() if k.startswith("allocated")}

    values = gpu.peaks(machine.call, Other(machine))
    assert missing(values["cuda_peak_requested_bytes"]) == "the allocator in use does not report requested_bytes"
    assert "reserved" in missing(values["cuda_peak_reserved_bytes"])
    assert values["cuda_peak_allocated_bytes"] == 1280


def test_an_untimed_cell_has_its_peaks_alone(machine: Machine, install: Any) -> None:
    values = gpu.read(machine.call, FakeCuda(machine), timed=False).values
    assert set(values) == NAMES
    there = {name for name, value in values.items() if not isinstance(value, Missing)}
    assert there == {f"cuda_peak_{which}_bytes" for which in ("requested", "allocated", "reserved")}
    assert missing(values["cuda_warm_seconds_min"]) == "the cell is not timed"
    assert machine.log.count("call") == 4
    assert not {"flush", "record", "init"} & set(machine.log)


def test_memory_of_a_call_is_what_tensors_asked_for() -> None:
    """A call that takes 700, then 50, and keeps 50 in its result and 8 for good."""
    moments = iter(
        [
            {"requested_bytes.all.current": 300, "requested_bytes.all.allocated": 9000, "allocation.all.allocated": 90},
            {"requested_bytes.all.current": 358, "requested_bytes.all.peak": 1050,
             "requested_bytes.all.allocated": 9758, "allocation.all.allocated": 93},
            {"requested_bytes.all.current": 308},
        ]
    )  # fmt: skip
    cuda = types.SimpleNamespace(synchronize=lambda: None, reset_peak=lambda: None, stats=lambda: next(moments))
    values = gpu.requested(lambda: None, cuda)  # type: ignore[arg-type]
    assert values == {
        "peak_bytes": 750, "returned_bytes": 58, "retained_bytes": 8, "total_bytes": 758, "allocations": 3,
    }  # fmt: skip
    silent = types.SimpleNamespace(synchronize=lambda: None, reset_peak=lambda: None, stats=dict)
    assert missing(gpu.requested(lambda: None, silent)["peak_bytes"]).endswith("does not report requested_bytes")  # type: ignore[arg-type]


def test_a_cpu_cell_has_none_of_it() -> None:
    subject = types.SimpleNamespace(cell=Cell("o", "m", "p", 1))
    values = gpu.measure(subject).values  # type: ignore[arg-type]
    assert set(values) == NAMES
    assert {missing(value) for value in values.values()} == {"cell runs on the CPU"}


def test_records_are_registered_and_only_allocator_peaks_are_deterministic() -> None:
    assert {name for name in NAMES if metrics()[name].deterministic} == {
        "cuda_peak_requested_bytes",
        "cuda_peak_allocated_bytes",
    }


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@needs_gpu
def test_on_a_gpu_the_peak_of_known_blocks_is_exact() -> None:
    def blocks() -> None:
        first = torch.empty(1000, dtype=torch.float32, device="cuda")
        second = torch.empty(3000, dtype=torch.uint8, device="cuda")
        del first
        torch.empty(100, dtype=torch.uint8, device="cuda")
        del second

    blocks()
    values = gpu.peaks(blocks, gpu.Cuda())
    assert values["cuda_peak_requested_bytes"] == 7000
    assert values["cuda_peak_allocated_bytes"] == 4096 + 3072


@needs_gpu
def test_on_a_gpu_a_cell_has_times_in_order_and_repeats_its_bytes() -> None:
    cell = Cell(HVP, "double_backward", "quadratic", 512, device="cuda")
    first, second = gpu.measure(Subject(cell)).values, gpu.measure(Subject(cell)).values
    assert set(first) == NAMES
    assert 0 < first["cuda_warm_seconds_min"] <= first["cuda_warm_seconds_median"] < 1  # type: ignore[operator]
    assert 0 < first["cuda_cold_seconds_min"] <= first["cuda_cold_seconds_median"] < 1  # type: ignore[operator]
    for name in ("cuda_peak_requested_bytes", "cuda_peak_allocated_bytes"):
        assert first[name] == second[name]
        assert first[name] > 0  # type: ignore[operator]


@needs_gpu
@pytest.mark.parametrize(("operator", "method"), [(HVP, "double_backward"), ("derivative_tensor", "rows")])
def test_on_a_gpu_counts_and_phases_are_those_of_the_cpu(operator: str, method: str) -> None:
    here, there = (Subject(Cell(operator, method, "mlp", 8, device=device)) for device in ("cpu", "cuda"))
    nodes = [counts.measure(subject).values["graph_nodes"] for subject in (here, there)]
    assert nodes[0] == nodes[1]
    read = [memory.measure(subject) for subject in (here, there)]
    assert read[0].values["result_bytes"] == read[1].values["result_bytes"] == read[1].values["returned_bytes"]
    assert read[1].values["retained_bytes"] == 0
    assert "backward 2" in {held.phase for held in trace(there.call, "cuda").attribution}


@needs_gpu
def test_on_a_gpu_a_timed_call_ends_when_its_work_is_done() -> None:
    subject = Subject(Cell(HVP, "double_backward", "quadratic", 4096, device="cuda"))
    values = timing.measure(subject, lambda call: [timing.fastest(call)]).values
    event_times = gpu.measure(subject).values
    assert values["seconds_min"] >= 0.8 * event_times["cuda_warm_seconds_min"]  # type: ignore[operator]


@needs_gpu
def test_on_a_gpu_event_times_match_the_wall_clock_of_a_long_product() -> None:
    import time

    a = torch.randn(4096, 4096, device="cuda")
    _, warm = gpu.rounds(lambda: a @ a, gpu.Cuda())
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    assert min(warm) == pytest.approx((time.perf_counter() - start) / 20, rel=0.5)
