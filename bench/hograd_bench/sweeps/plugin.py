"""pytest plugin: feeds planned cells to the sweep and pytest-benchmark's rounds to the rows.

A sweep is a ``bench_*`` function that takes the fixtures ``hograd_planned`` and ``hograd_measured``. Its cells are a
preset's, or those of a :class:`Batch` that the engine brings. pytest loads this file into every project's tests where
hograd is installed, so each fixture, option and mark begins with hograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

# Registered, not imported: it is a room of its own. The entry point stays this one, so that an environment in which
# hograd is installed runs the suite of older revisions too, as the gate does.
pytest_plugins = ("hograd_bench.limits.plugin",)


class Batch:
    """The engine's cells, as a plugin of their own.

    Args:
        plans: numbers and planned cells.
        ask: called before each cell with its number; False: leave it.
        emit: takes the row of each.
        more: further cells, measured in the same session: to start another takes longer than many a cell.
    """

    def __init__(
        self,
        plans: Sequence[tuple[int, Any]],
        ask: Callable[[int], bool],
        emit: Callable[[dict[str, Any]], None],
        more: Iterable[Sequence[tuple[int, Any]]] = (),
    ) -> None:
        self.plans, self.ask, self.emit, self.more = plans, ask, emit, more

    def pytest_configure(self, config: pytest.Config) -> None:
        """Let the sweep find it."""
        config.stash[BATCH] = self

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Measure what was collected, then collect more."""
        from hograd_bench.metrics._allocations import settle

        more = iter(self.more)
        while True:
            for item, following in zip(session.items, [*session.items[1:], None], strict=False):
                settle()
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            plans = next(more, None)
            if plans is None:
                return True
            self.plans = plans
            session.perform_collect()


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
