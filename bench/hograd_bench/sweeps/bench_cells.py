"""Every planned cell, timed by pytest-benchmark; the rows come from ``measure.measure``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hograd_bench.plan import Planned


def bench_cell(hograd_planned: Planned, hograd_measured: Callable[[], dict[str, Any]]) -> None:
    """Measure one planned cell; say in pytest's own words what became of it."""
    row = hograd_measured()
    if row["status"] == "unsupported":
        pytest.skip(row["reason"])
    assert row["status"] == "ok", f"{row['cell']}: {row['status']}: {row['reason']}"
