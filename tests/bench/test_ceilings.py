"""Ceilings of the machine, and the roofline that they bound."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hograd_bench import ceilings, environment


@pytest.mark.slow
def test_ceilings_are_positive_and_leave_the_threads_alone() -> None:
    before = torch.get_num_threads()
    found = ceilings.measure(threads=(1,), dtypes=("float32",))
    assert torch.get_num_threads() == before
    assert list(found["cpu"]) == ["1"]
    one = found["cpu"]["1"]
    for rate in (one["copy_bytes_per_s"], one["cached_copy_bytes_per_s"], one["matmul_flop_per_s"]["float32"]):
        assert 0 < rate < math.inf
    assert one["copy_bytes"] > one["cached_copy_bytes"]
    assert ("cuda" in found) == torch.cuda.is_available()


def test_a_dtype_that_cannot_be_multiplied_has_no_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError('"addmm_impl_cpu_" not implemented for this dtype')

    monkeypatch.setattr(torch, "mm", refused)
    assert ceilings._matmul("cpu", torch.float16) is None


def with_ceilings() -> environment.Environment:
    ceiling = {
        "copy_bytes_per_s": 10e9, "cached_copy_bytes_per_s": 100e9, "cache_bytes": 1000,
        "matmul_flop_per_s": {"float32": 50e9, "float16": None},
    }  # fmt: skip
    return {"ceilings": {"cpu": {"1": ceiling}, "cuda": {"1": ceiling}}}


def test_the_roofline_bound() -> None:
    env = with_ceilings()
    memory = environment.bound(env, "cpu", 1, "float32", flops=1e9, bytes_moved=1e9)
    assert memory == environment.Bound(seconds=0.1, limit="memory", intensity=1.0, ridge=5.0)
    arithmetic = environment.bound(env, "cpu", 1, "float32", flops=1e10, bytes_moved=1e9)
    assert arithmetic == environment.Bound(seconds=0.2, limit="arithmetic", intensity=10.0, ridge=5.0)
    cached = environment.bound(env, "cpu", 1, "float32", flops=1e9, bytes_moved=1e9, footprint=1000)
    assert cached == environment.Bound(seconds=0.02, limit="arithmetic", intensity=1.0, ridge=0.5)
    beyond = environment.bound(env, "cpu", 1, "float32", flops=1e9, bytes_moved=1e9, footprint=1001)
    assert beyond == memory


@pytest.mark.parametrize(
    ("device", "threads", "dtype", "flops", "moved", "there"),
    [
        ("cpu", 2, "float32", 1.0, 1.0, False),  # ceilings of two threads were not measured
        ("cuda", 8, "float32", 1.0, 1.0, True),
        ("cpu", 1, "float16", 1.0, 1.0, False),
        ("cpu", 1, "float64", 1.0, 1.0, False),
        ("cpu", 1, "float32", 1.0, 0.0, False),
        ("cpu", 1, "float32", float("nan"), 1.0, False),
        ("cpu", 1, "float32", 1.0, float("nan"), False),
        ("cpu", 1, "float32", 0.0, 1.0, True),
    ],
)
def test_no_bound_without_its_ceiling(
    device: str, threads: int, dtype: str, flops: float, moved: float, there: bool
) -> None:
    assert (environment.bound(with_ceilings(), device, threads, dtype, flops, moved) is not None) is there
    assert environment.bound({}, device, threads, dtype, flops, moved) is None
