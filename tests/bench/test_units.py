from __future__ import annotations

import pytest
from hograd_bench import units


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0123, "12.3 ms"),
        (4.5e-7, "450 ns"),
        (2.0, "2 s"),
        (9.999e-4, "1 ms"),
        (9.99e-4, "999 µs"),
        (1e-12, "0.001 ns"),
    ],
)
def test_seconds(value: float, said: str) -> None:
    assert units.seconds(value) == said


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0 B"), (892, "892 B"), (4096, "4 KiB"), (5000, "5000 B"), (3 << 30, "3 GiB")]
)
def test_bytes(value: int, said: str) -> None:
    assert units.binary(value) == said


@pytest.mark.parametrize(("value", "said"), [(1.0, "1×"), (1.0042, "1.004×"), (0.25, "0.25×"), (1234.5, "1,234×")])
def test_ratios(value: float, said: str) -> None:
    assert units.times(value) == said


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seconds_min", 0.00756769, "7.57 ms"),
        ("peak_bytes", 1049600.0, "1,049,600 B"),
        ("total_bytes_per_s", 2.5e9, "2,500,000,000"),
        ("flops", 68094720, "68,094,720"),
        ("flops", 1e17, "1e+17"),
        ("gradient_equivalents", 4.3131337, "4.31313"),
        ("gpu_joules_per_call", 0.25, "250 mJ"),
    ],
)
def test_in_full(name: str, value: float, said: str) -> None:
    assert units.full(name, value) == said
