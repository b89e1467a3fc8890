"""pytest plugin: feeds planned cells to the sweep and pytest-benchmark's rounds to the rows.

A sweep is a ``bench_*`` function that takes the fixtures ``hograd_planned`` and ``hograd_measured``. Its cells are a
preset's, or those of a :class:`Batch` that the engine brings. pytest loads this file into every project's tests where
hograd is installed, so each fixture, option and mark begins with hograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest


class Batch:
    """The engine's cells, as a plugin of their own.

    Args:
        plans: numbers and planned cells.
        ask: called before each cell with its number; False: leave it.
        emit: takes the row of each.
    """

    def __init__(
        self, plans: Sequence[tuple[int, Any]], ask: Callable[[int], bool], emit: Callable[[dict[str, Any]], None]
    ) -> None:
        self.plans, self.ask, self.emit = plans, ask, emit

    def pytest_configure(self, config: pytest.Config) -> None:
        """Let the sweep find it."""
        config.stash[BATCH] = self


def _always(number: int) -> bool:
    return True


BATCH = pytest.StashKey[Batch]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the sweep, beside pytest-benchmark's own."""
    group = parser.getgroup("hograd")
    group.addoption("--hograd-preset", default="smoke", help="which preset's cells to sweep (default: smoke)")
    group.addoption("--hograd-problems", action="append", default=[], help="a file that declares further problems")


def _batch(config: pytest.Config) -> Batch:
    """The engine's, or a preset's (the suite is imported only where a sweep asks for it)."""
    if BATCH not in config.stash:
        from hograd_bench import plan, problems

        for path in config.getoption("--hograd-problems"):
            problems.load_file(path)
        plans = [p for p in plan.preset(config.getoption("--hograd-preset")) if p.skip is None]
        config.stash[BATCH] = Batch(list(enumerate(plans)), _always, lambda row: None)
    return config.stash[BATCH]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a planned cell."""
    if "hograd_planned" in metafunc.fixturenames:
        plans = _batch(metafunc.config).plans
        metafunc.parametrize("hograd_number, hograd_planned", plans, ids=[planned.cell.id for _, planned in plans])


@pytest.fixture
def hograd_measured(
    benchmark: Any, hograd_number: int, hograd_planned: Any, request: pytest.FixtureRequest
) -> Callable[[], dict[str, Any]]:
    """A call that measures the planned cell and returns its row."""
    from hograd_bench import measure

    batch, planned = _batch(request.config), hograd_planned
    benchmark.group = f"{planned.cell.operator} {planned.cell.problem} n={planned.cell.n} k={planned.cell.order}"

    def timer(call: Callable[[], object]) -> list[float]:
        benchmark(call)
        if benchmark.stats is None:  # --benchmark-disable: one untimed call was made
            raise RuntimeError("pytest-benchmark is disabled")
        return list(benchmark.stats.stats.data)

    def run() -> dict[str, Any]:
        if not batch.ask(hograd_number):
            pytest.skip("another process has it, or it is no longer wanted")
        timed = "time" in planned.families and benchmark.enabled
        row = measure.measure(
            planned.cell, planned.families, timer if timed else None, in_child=batch.ask is not _always
        )
        benchmark.extra_info.update(status=row["status"], peak_bytes=row["metrics"].get("peak_bytes"))
        batch.emit(row)
        return row

    return run
