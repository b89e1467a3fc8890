"""What is done once for all processes of a test run: growth is judged, and what was not checked is said."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import pytest

from hograd_bench.limits import _growth
from hograd_bench.limits._fixture import EXTRA, TIME


class Session:
    """A plugin of the process that sees every report: the only one, or xdist's controller."""

    def __init__(self) -> None:
        self._grown: list[Mapping[str, Any]] = []
        self._times: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather what reports bring."""
        if hasattr(report, "hograd_growth"):
            self._grown.append(report.hograd_growth)
        if report.when == "call":
            self._times += [f"{report.nodeid}: {said}" for name, said in report.user_properties if name == TIME]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """When all tests have run, growth is one outcome more for each test that is parametrised over a size."""
        ran = yield
        groups = _growth.grouped(self._grown)
        session.testscollected += len(groups)  # which the progress in percent is of
        for group in groups:
            session.config.hook.pytest_runtest_logreport(report=_report(group))
        return ran

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say which limits of time hold, and which were not checked."""
        if self._times:
            terminalreporter.section("hograd: limits of time")
            for said in self._times:
                terminalreporter.line(said)


def _report(group: _growth.Group) -> pytest.TestReport:
    try:
        judged = _growth.judge(group)
    except ModuleNotFoundError as error:
        judged = _growth.Judgement("failed", f"growth over {group.over}: {error}; {EXTRA}")
    name = f"{group.name}[growth over {group.over}]"
    skipped = (group.path, 0, judged.text)
    return pytest.TestReport(
        nodeid=f"{group.path}::{name}",
        location=(group.path, 0, name),
        keywords={name: 1},
        outcome=judged.outcome,  # type: ignore[arg-type]
        longrepr={"passed": None, "failed": judged.text, "skipped": skipped}[judged.outcome],
        when="call",
        user_properties=[("hograd_growth", judged.text)],
    )
