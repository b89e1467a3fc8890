"""The laws of all series of a frame, and the module that is called for them."""

from __future__ import annotations

import subprocess
import sys

import hograd_bench
import pandas as pd
import pytest
from hograd_bench import laws


def frame() -> pd.DataFrame:
    rows = [
        {
            "operator": "derivative_tensor", "method": method, "problem": "p", "n": n, "depth": 1, "batch": 1,
            "order": 2, "dtype": "float64", "device": "cpu", "threads": 1, "preparation": "eager",
            "status": "ok",
            "peak_bytes": 8.0 * n**power, "aten_calls": 3.0 + n,
        }
        for method, power in (("rows", 1), ("batched_rows", 2))
        for n in (2, 4, 6, 8, 10)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.slow
def test_every_series_has_its_law() -> None:
    found = hograd_bench.laws(frame(), ["peak_bytes", "aten_calls"])
    assert list(found.columns) == ["operator", "method", "metric", "law", "kind"]
    assert found["kind"].tolist() == ["exact"] * 4
    texts = found.set_index(["method", "metric"])["law"]
    assert texts["rows", "peak_bytes"].startswith("peak_bytes = 8·n for n ≥ 2")
    assert texts["batched_rows", "peak_bytes"].startswith("peak_bytes = 8·n² for n ≥ 2")
    assert texts["rows", "aten_calls"].startswith("aten_calls = n + 3")


def test_what_has_no_law_says_why() -> None:
    few = frame().query("n <= 4")
    found = laws.table(few, ["peak_bytes"])
    assert found["kind"].tolist() == ["none", "none"]
    assert found["law"].str.startswith("insufficient data").all()
    mixed = frame().assign(seconds_min=1.0, depth=[1, 2] * 5)
    assert "vary together" in laws.table(mixed, ["seconds_min"])["law"].iloc[0]


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="metrics: got 'peak'"):
        laws.table(frame(), ["peak"])


@pytest.mark.slow
def test_the_package_finds_them_without_torch() -> None:
    code = (
        "import sys, hograd_bench; hograd_bench.laws.fit_exact; hograd_bench.laws.__call__\n"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'law'"):
        hograd_bench.law  # noqa: B018
