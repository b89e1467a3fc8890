"""pytest plugin: feeds planned cells to the sweeps and pytest-benchmark's rounds to the rows.

A sweep is a ``bench_*`` function that takes the fixture ``measured``. Which cells it gets is decided by its
module's OPERATORS and by --hograd-preset or --hograd-cells. Rows go to --hograd-run where one is named.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the sweeps, beside pytest-benchmark's own."""
    group = parser.getgroup("hograd")
    group.addoption("--hograd-preset", default="smoke", help="which preset's cells to sweep (default: smoke)")
    group.addoption("--hograd-cells", type=Path, help="JSON lines of planned cells, instead of a preset")
    group.addoption("--hograd-run", type=Path, help="folder of the run to which rows are appended")
    group.addoption("--hograd-problems", action="append", default=[], help="a file that declares further problems")
    group.addoption("--hograd-resident", action="store_true", help="also measure peak resident memory, isolated")
    group.addoption("--hograd-events", type=int, help="file descriptor that hears which cell starts and ends")


def _planned(config: pytest.Config) -> list[Any]:
    """The plan, made once a session (the suite is imported only where a sweep asks for it)."""
    cached = getattr(config, "_hograd_plan", None)
    if cached is None:
        from hograd_bench import plan, problems

        for path in config.getoption("--hograd-problems"):
            problems.load_file(path)
        cells = config.getoption("--hograd-cells")
        if cells is not None:
            cached = [
                plan.Planned.from_json(json.loads(line)) for line in cells.read_text(encoding="utf-8").splitlines()
            ]
        else:
            cached = plan.preset(config.getoption("--hograd-preset"))
        config._hograd_plan = cached  # type: ignore[attr-defined]
    return list(cached)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a planned cell, for sweeps of its operator."""
    if "planned" in metafunc.fixturenames:
        wanted = metafunc.module.OPERATORS
        chosen = [p for p in _planned(metafunc.config) if p.cell.operator in wanted and p.skip is None]
        metafunc.parametrize("planned", chosen, ids=[p.cell.id for p in chosen])


@pytest.fixture
def measured(benchmark: Any, planned: Any, request: pytest.FixtureRequest) -> Callable[[], dict[str, Any]]:
    """A call that measures the planned cell, appends its row and returns it."""
    from hograd_bench import measure, store

    config = request.config
    benchmark.group = f"{planned.cell.operator} {planned.cell.problem} n={planned.cell.n} k={planned.cell.order}"

    def timer(call: Callable[[], object]) -> list[float]:
        benchmark(call)
        if benchmark.stats is None:  # --benchmark-disable: one untimed call was made
            raise RuntimeError("pytest-benchmark is disabled")
        return list(benchmark.stats.stats.data)

    def run() -> dict[str, Any]:
        _tell(config, {"event": "start", "cell": planned.cell.id})
        timed = "time" in planned.families and benchmark.enabled
        row = measure.measure(
            planned.cell,
            planned.families,
            timer if timed else None,
            resident=config.getoption("--hograd-resident"),
            problem_files=[Path(path) for path in config.getoption("--hograd-problems")],
        )
        benchmark.extra_info.update(status=row["status"], peak_bytes=row["metrics"].get("peak_bytes"))
        if config.getoption("--hograd-run") is not None:
            opened = getattr(config, "_hograd_run", None)
            if opened is None:
                opened = config._hograd_run = store.open_run(config.getoption("--hograd-run"))  # type: ignore[attr-defined]
            opened.append(row)
        _tell(config, {"event": "end", "cell": planned.cell.id, "status": row["status"], "reason": row["reason"]})
        return row

    return run


def _tell(config: pytest.Config, event: dict[str, Any]) -> None:
    descriptor = config.getoption("--hograd-events")
    if descriptor is not None:
        os.write(descriptor, (json.dumps(event) + "\n").encode())
