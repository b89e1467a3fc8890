"""What is measured of a function within a budget, and what a function may do to who measures it."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from advise_fakes import described
from hograd_bench import advise as advising
from hograd_bench import schema
from hograd_bench.advise import _plan
from hograd_bench.advise._here import Here
from hograd_bench.advise._session import Session
from hograd_bench.cells import Cell
from hograd_bench.engine import Event, Host, Task
from hograd_bench.targets import Request
from typer.testing import CliRunner


class Scripted:
    """An engine that measures nothing: every cell is as fast and as large as its method's name is long."""

    def __init__(self) -> None:
        self.ran: list[Cell] = []

    def run(self, tasks: Sequence[Task], wanted: Callable[[Task], bool] = lambda task: True) -> Iterator[Event]:
        for task in tasks:
            if wanted(task):
                self.ran.append(task.cell)
                length = len(task.cell.method)
                metrics: Mapping[str, Any] = {"seconds_min": length, "peak_bytes": 8 * task.cell.n, "allowed": True}
                yield Event(task)
                yield Event(task, schema.row(task.cell, "ok", metrics=metrics, numel=task.cell.n))


def session(seconds: float, **more: Any) -> tuple[Session, Scripted]:
    made, engine = Session(Request("mine.py:f"), seconds), Scripted()
    made.described = described(**more)
    made._measure("target", Host(), engine)
    return made, engine


def test_with_time_every_method_is_measured_and_laws_of_the_two_fastest() -> None:
    _, engine = session(10_000)
    mine = [cell for cell in engine.ran if cell.operator == "derivative_tensor"]
    assert {c.method for c in mine if c.n == 8} == {
        m["name"] for m in described()["operators"]["derivative_tensor"]["methods"]
    }
    two = sorted({c.method for c in mine}, key=lambda name: (len(name), name))[:2]
    assert {c.method for c in mine if c.n != 8} == set(two)
    assert {(c.method, c.preparation) for c in mine if c.preparation != "eager"} == {
        (name, preparation) for name in two for preparation in _plan.PREPARATIONS
    }
    assert {c.n for c in mine} == {4, 6, 8, 10, 12, 14}


def test_without_time_one_method_of_each_need_is_measured_and_the_rest_said() -> None:
    made, engine = session(1e-6, gradient_seconds=1e-12, hvp_seconds=1e-12)
    assert [c.operator for c in engine.ran if c.preparation == "eager"] == [
        "gradient", "derivative_vector_product", "hessian_diagonal", "derivative_tensor",
    ]  # fmt: skip
    assert all(row["reason"].startswith(_plan.FORETOLD) for row in made.rows if row["status"] == "skipped")


def test_what_is_too_large_or_too_slow_is_not_begun() -> None:
    _, engine = session(60, numel=10_000, memory=2**20, law_sizes=[])
    assert not [c for c in engine.ran if c.operator == "derivative_tensor"]
    _, engine = session(60, numel=10_000, memory=2**40, hvp_seconds=0.01, law_sizes=[])
    assert not [c for c in engine.ran if c.operator in ("derivative_tensor", "hessian_diagonal")]
    assert [c for c in engine.ran if c.operator == "derivative_vector_product"]


@pytest.mark.slow
def test_this_process_is_an_engine_too() -> None:
    frozen = gc.get_freeze_count()
    cell = Cell("gradient", "autograd", "sin_chain", 4, order=1)
    unwanted = Task(Cell("gradient", "func", "sin_chain", 4, order=1), ("accuracy",))
    begun, ended = Here().run([Task(cell, ("accuracy", "time")), unwanted], lambda task: task is not unwanted)
    assert begun.row is None
    assert ended.row is not None
    assert ended.row["status"] == "ok"
    assert ended.row["metrics"]["seconds_min"] > 0
    assert (gc.get_freeze_count() > 0) == (frozen > 0)


@pytest.mark.slow
def test_a_lambda_is_measured_here_and_the_advice_says_so() -> None:
    import torch

    found = advising.advise(lambda x: (x**3).sum(), torch.ones(4), operators=("gradient",), seconds=600)
    assert found.notes == ("measured in this process: f cannot be pickled",)
    assert found.rankings[0].best is not None
    scope: dict[str, Any] = {"f": lambda x: (x**3).sum(), "x": torch.ones(4)}
    exec(found.snippet(), scope)
    assert scope["g"].tolist() == [3.0] * 4
    with pytest.raises(TypeError, match="f: got int, expected a callable"):
        advising.advise(3, torch.ones(4))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("    import time\n    time.sleep(1000)\n", "it gave no value and gradient within"),
        ("    import os\n    os._exit(3)\n", "its process died"),
        ("    import os, signal\n    os.kill(os.getpid(), signal.SIGSEGV)\n", "its process died"),
        ("    raise ValueError('what it does not like')\n", "ValueError: what it does not like"),
        ("    return torch.ones(10 ** 13)\n", "cannot be differentiated: RuntimeError"),
        ("    return x\n", "cannot be differentiated"),
    ],
)
def test_a_function_that_fails_costs_no_more_than_its_budget(body: str, says: str, tmp_path: Any) -> None:
    from hograd_bench.cli import app

    (tmp_path / "bad.py").write_text("import torch\n\ndef f(x):\n" + body, encoding="utf-8")
    began = time.monotonic()
    result = CliRunner().invoke(app, ["advise", f"{tmp_path}/bad.py:f", "--shape", "3", "--seconds", "5"])
    assert result.exit_code == 1, result.output
    assert says in result.stdout.replace("\n", " "), result.output
    assert time.monotonic() - began < 120


@pytest.mark.skipif("HOGRAD_ADVISE" not in os.environ, reason="HOGRAD_ADVISE=1 takes minutes of one's own")
def test_a_function_that_prints_forks_seeds_and_mutates_is_measured_all_the_same(tmp_path: Any) -> None:
    (tmp_path / "rude.py").write_text(
        "import os, torch\nCALLS = []\n\ndef f(x):\n"
        "    CALLS.append(1)\n    print('{\"row\": 1}')\n    torch.manual_seed(len(CALLS))\n"
        "    if len(CALLS) in (1, 40, 80):\n        if os.fork() == 0:\n            pass\n"
        "    return (x ** 3).sum()\n",
        encoding="utf-8",
    )
    request = Request(f"{tmp_path}/rude.py:f", (5,))
    found = advising.advise_by_name(request, operators=("gradient", "hvp"), seconds=300)  # however busy the machine
    assert not found.lost, found.lost + found.lost_more
    assert [r.best is not None for r in found.rankings] == [True, True]
    assert "draws numbers" in {sign["name"] for sign in found.signs}


def test_however_long_loading_took_a_share_of_the_budget_is_measured_for() -> None:
    now = [0.0]
    made, engine = Session(Request("mine.py:f"), 10.0, clock=lambda: now[0], preparations=()), Scripted()
    assert made.left == pytest.approx(8.5)
    now[0] = 100.0
    assert made.left == pytest.approx(2.5)  # and still is when a process that loads is ready
    made.described = described(law_sizes=[])
    made._measure("target", Host(), engine)
    assert made.left == pytest.approx(2.5)
    now[0] = 102.0
    assert made.left == pytest.approx(0.5)
    # All of them: this clock stands still.
    assert len(engine.ran) == sum(len(_plan.methods(described(), need)) for need in _plan.needs(described()))


def test_the_first_method_of_a_need_may_take_most_of_what_is_left() -> None:
    """And is measured of every need that it is affordable for; the second only where it takes a third."""
    made, engine = Session(Request("mine.py:f"), 10.0, clock=lambda: 0.0, preparations=()), Scripted()
    made.described = described(
        law_sizes=[], hvp_seconds=0.3, numel=10**6, memory=2**30
    )  # 14 calls and a truth: 4.8 s of 8.5
    made._measure("target", Host(), engine)
    assert [c.method for c in engine.ran if c.operator == "derivative_vector_product"] == ["double_backward"]


def test_what_would_come_near_the_limit_of_a_method_is_not_begun() -> None:
    """Its process would be lost with it."""
    made, engine = Session(Request("mine.py:f"), 60.0, clock=lambda: 0.0, preparations=()), Scripted()
    assert made.longest == 15.0
    made.described = described(law_sizes=[], hvp_seconds=0.5, numel=10**6, memory=2**30)  # 8 s of 51
    made._measure("target", Host(), engine)
    assert not [c for c in engine.ran if c.operator == "derivative_vector_product"]


def test_what_auto_takes_first_is_measured_first() -> None:
    for need in _plan.needs(described()):
        first = described()["operators"][need.operator]["first"]
        assert [m["name"] for m in _plan.methods(described(), need)][: len(first)] == first


def test_a_truth_takes_a_share_of_the_budget_at_most() -> None:
    about = described(hvp_seconds=1e-3, numel=100_000)
    assert _plan.sweeps(about, 60.0) == 1500
    assert _plan.sweeps(about, 1e-3) == 64
    (hessian,) = _plan.needs(about, ["hessian"])
    whole = _plan.seconds(about, hessian, "rows", 1e9) - _plan.seconds(about, hessian, "rows", 1e9, truth=False)
    samples = _plan.seconds(about, hessian, "rows", 60.0) - _plan.seconds(about, hessian, "rows", 60.0, truth=False)
    assert whole == pytest.approx(2e-3 * 100_000)
    assert samples == pytest.approx(3.0)
