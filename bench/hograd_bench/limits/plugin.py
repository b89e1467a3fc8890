"""pytest plugin: marks that limit what a call may cost, and the fixture that makes the call.

    @pytest.mark.hograd(peak="40 MiB", ops=4, leaks=0)
    def test_my_hvp(hograd):
        result = hograd(my_hvp, f, x, v)

pytest loads this in every project where hograd is installed: torch is imported where a test calls the fixture.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from hograd_bench.limits._fixture import Hograd
from hograd_bench.limits._marks import FIGURES, Growth, Limits, MarkError
from hograd_bench.limits._session import Session

if TYPE_CHECKING:
    from hograd_bench.limits._figures import Figures

_MARKS = {
    "hograd(peak, ops, leaks, time_gradients)": "limits of a call by the fixture hograd: "
    'peak="40 MiB", leaks=0 (bytes), ops=4, time_gradients=4 (in gradients)',
    "hograd_growth(over, peak, ops, leaks)": 'limits of growth over a parameter: over="n", peak="O(n)"',
}
_CALLER = pytest.StashKey[Hograd]()


def _limits(item: pytest.Item) -> Limits:
    given: dict[str, Any] = {}
    positional: tuple[Any, ...] = ()
    for mark in reversed(list(item.iter_markers("hograd"))):  # the nearest to the test holds
        given |= mark.kwargs
        positional += mark.args
    return Limits.read(given, positional)


def _growth(item: pytest.Item) -> Growth | None:
    mark = item.get_closest_marker("hograd_growth")
    return None if mark is None else Growth.read(mark.kwargs, mark.args)


def _size(item: pytest.Item, over: str) -> int:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    size = parameters.get(over)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        got = repr(size) if over in parameters else f"no parameter {over!r}"
        raise MarkError(
            f"hograd_growth: over: got {got}, expected whole sizes >= 1, as by "
            f'@pytest.mark.parametrize("{over}", [8, 16, ...])'
        )
    return size


def growth_of(item: pytest.Item, growth: Growth, taken: Sequence[Figures]) -> dict[str, Any]:
    """What a test adds to its group, in types that cross processes."""
    from hograd_bench.limits import _verdict

    size = _size(item, growth.over)
    others = {k: v for k, v in item.callspec.params.items() if k != growth.over}  # type: ignore[attr-defined]
    indices = item.callspec.indices  # type: ignore[attr-defined]
    shown = [f"{k}={v if isinstance(v, int | float | str) else indices.get(k, '')}" for k, v in others.items()]
    accounts = {
        "peak": "\n".join(_verdict.held(taken[-1].at_peak)),
        "leaks": "\n".join(_verdict.held(taken[-1].left)),
        "ops": "\n".join(_verdict.counted(taken[-1].by_op)),
    }
    return {
        "path": str(item.location[0]),
        "name": item.location[2].partition("[")[0] + (f"[{','.join(shown)}]" if shown else ""),
        "over": growth.over,
        "powers": dict(growth.powers),
        "declared": _declared(item, growth.over),
        "size": size,
        "figures": {name: [getattr(f, FIGURES[name]) for f in taken] for name in growth.powers},
        "accounts": {name: accounts[name] for name in growth.powers},
    }


def _declared(item: pytest.Item, over: str) -> int:
    """The number of sizes that the test is parametrised with; 0 where no mark says so."""
    for mark in item.iter_markers("parametrize"):
        names, values = mark.args[:2] if len(mark.args) > 1 else ((), ())
        listed = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        if over in listed:
            given = [getattr(v, "values", v if len(listed) > 1 else (v,)) for v in values]
            return len({v[listed.index(over)] for v in given})
    return 0


@pytest.fixture
def hograd(request: pytest.FixtureRequest) -> Hograd:
    """Calls a function and holds what it takes against the marks."""
    made = request.node.stash[_CALLER] = Hograd(request.node, _limits(request.node))
    return made


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option for times, which a busy machine changes."""
    group = parser.getgroup("hograd")
    group.addoption("--hograd-time", action="store_true", help="check time_gradients, limits of time in gradients")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks."""
    for mark, what in _MARKS.items():
        config.addinivalue_line("markers", f"{mark}: {what}")
    if not hasattr(config, "workerinput"):  # of processes that share the tests, one sees all reports
        config.pluginmanager.register(Session(), "hograd-session")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a mark that cannot be meant before anything runs."""
    marks = [name for name in ("hograd", "hograd_growth") if item.get_closest_marker(name)]
    if not marks:
        return
    try:
        if _limits(item) == Limits() and "hograd" in marks:
            some = ", ".join(field.name for field in fields(Limits))
            raise MarkError(f'hograd: nothing is limited; give some of {some}, e.g. peak="40 MiB"')
        growth = _growth(item)
        if growth is not None:
            _size(item, growth.over)
    except MarkError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    if "hograd" not in getattr(item, "fixturenames", ()):
        pytest.fail(_not_called(marks[0], "does not take the fixture hograd"), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A mark whose test never called the fixture held nothing."""
    yield
    marks = [name for name in ("hograd", "hograd_growth") if item.get_closest_marker(name)]
    caller = item.stash.get(_CALLER, None)
    if marks and (caller is None or not caller.taken):
        pytest.fail(_not_called(marks[0], "never called the fixture hograd"), pytrace=False)


def _not_called(mark: str, what: str) -> str:
    return f"@pytest.mark.{mark} limits what the fixture hograd calls, and the test {what}: hograd(fn, *args)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Have the figures that growth is judged by travel with the report, from other processes too."""
    report = yield
    growth = _growth(item) if report.when == "call" and report.passed else None
    if growth is not None:
        report.hograd_growth = growth_of(item, growth, item.stash[_CALLER].taken)
    return report
