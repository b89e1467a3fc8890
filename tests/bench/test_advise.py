"""From rows to advice: rankings, the method to take, what is foretold, code that is printed, what is afforded."""

from __future__ import annotations

import gc
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hograd_bench import advise as advising
from hograd_bench import schema
from hograd_bench.advise import _plan
from hograd_bench.advise._advice import Advice, frame_of
from hograd_bench.advise._here import Here
from hograd_bench.advise._session import Session
from hograd_bench.cells import Cell
from hograd_bench.engine import Event, Host, Task
from hograd_bench.targets import Request
from typer.testing import CliRunner

REQUEST = Request("lib/mine.py:make").to_json()


def described(**more: Any) -> dict[str, Any]:
    """Of a function of 8 elements, without the registries."""
    from hograd_bench.targets._describe import _operator

    import hograd_core

    return {
        "numel": 8, "shape": [8], "leaves": [], "form": "pair", "called": True,
        "has_args": False, "dtype": "float32", "device": "cpu",
        "parameter": "n", "n": 8, "law_sizes": [4, 6, 8, 10, 12, 14], "gradient_seconds": 1e-4, "hvp_seconds": 3e-4,
        "memory": 10_000, "signs": [], "function": "f0",
        "operators": {o.name: _operator(o) for o in hograd_core.operators().values()}, **more,
    }  # fmt: skip


def row(
    method: str, status: str = "ok", reason: str = "", *, n: int = 8, operator: str = "hessian", **metrics: Any
) -> Any:
    need = _plan.needs(described(), [operator])[0]
    cell = Cell(need.operator, method, "target", n, need.order)
    taken = {"seconds_min": 1e-3, "seconds_iqr": 0.0, "peak_bytes": 1000, "relative_error": 1e-7, "allowed": True}
    taken = {**taken, **metrics} if status == "ok" else {}
    return schema.row(cell, status, reason or None, metrics=taken, numel=n)


def advice(*rows: Any, names: Sequence[str] = ("hessian",), sizes: tuple[int, ...] = (), **more: Any) -> Advice:
    about = described(**more)
    return Advice(REQUEST, about, frame_of(rows), tuple(_plan.needs(about, names)), sizes)


def best(*rows: Any, **more: Any) -> str | None:
    (found,) = advice(*rows, **more).rankings
    return found.best and found.best.method


def test_the_fastest_is_taken_and_of_equals_the_leanest() -> None:
    assert best(row("rows", seconds_min=3e-3), row("batched_rows", seconds_min=1e-3)) == "batched_rows"
    fast, lean = row("batched_rows", seconds_min=1e-3, peak_bytes=5000), row("rows", seconds_min=1.04e-3)
    assert best(fast, lean) == "rows"
    noisy = {"seconds_iqr": 5e-4}
    slower = row("rows", seconds_min=1.4e-3, **noisy)
    assert best(row("batched_rows", seconds_min=1e-3, peak_bytes=5000, **noisy), slower) == "rows"
    assert best(row("batched_rows", seconds_min=1e-3, peak_bytes=5000), slower) == "batched_rows"


@pytest.mark.parametrize(
    ("other", "status"),
    [
        (row("batched_rows", "wrong", "relative error 0.5 exceeds the tolerance"), "wrong"),
        (row("batched_rows", "unsupported", "no batching rule: x"), "unsupported"),
        (row("batched_rows", seconds_min=1e-6, allowed=False), "refused"),
        (row("batched_rows", seconds_min=None), "failed"),
        (row("batched_rows", "skipped", _plan.FORETOLD + "it takes long"), "not measured"),
    ],
)
def test_what_is_not_known_to_be_right_is_never_taken(other: Any, status: str) -> None:
    assert best(other, row("rows", seconds_min=9e-3)) == "rows"
    (ranking,) = advice(other).rankings
    assert ranking.best is None
    assert ranking.ranked[0].status == status
    assert ranking.why == f"no method gave a result that agrees with float64 truth (1 {status})"


def test_the_memory_budget_is_kept() -> None:
    large = row("batched_rows", seconds_min=1e-6, peak_bytes=10_001)
    assert best(large, row("rows", seconds_min=9e-3)) == "rows"
    (ranking,) = advice(large).rankings
    assert ranking.why == "no method that is right keeps to the memory budget"
    assert advice(large).snippet() == ""
    assert not advice(large).given


def test_an_estimate_is_shown_and_not_taken() -> None:
    estimate, exact = (
        row("hutchinson", operator="hessian_diagonal", seconds_min=1e-6),
        row("columns", operator="hessian_diagonal"),
    )
    found = advice(estimate, exact, names=("hessian_diagonal",))
    assert found.rankings[0].best.method == "columns"  # type: ignore[union-attr]
    assert "hutchinson (estimate)" in str(found)


def test_a_remedy_for_a_kernel_without_second_derivative() -> None:
    reason = (
        "no derivative formula: derivative for aten::_scaled_dot_product_flash_attention_backward is not implemented"
    )
    found = advice(row("rows", "unsupported", reason))
    assert "sdpa_kernel(torch.nn.attention.SDPBackend.MATH)" in found.rankings[0].ranked[0].remedy
    assert "SDPBackend.MATH" in str(found)


def test_laws_say_what_happens_at_a_million() -> None:
    series = [row("batched_rows", n=n, peak_bytes=24 * n * n + 8 * n) for n in (4, 6, 8, 10, 12, 14)]
    found = advice(*series, sizes=(1_000_000,), memory=24 * 2**30)
    peak, result = found.foretold
    assert peak.bytes == 24 * 10**12 + 8 * 10**6
    assert result.bytes == 4 * 10**12
    assert (peak.fits, result.fits) == (False, False)
    assert "at n = 1,000,000 hessian needs 3.64 TiB for its result alone; the largest n that fits is 80,264" in str(
        found
    )
    at = peak.largest
    assert at is not None
    assert 24 * at * at + 8 * at <= 24 * 2**30 < 24 * (at + 2) ** 2 + 8 * (at + 2)  # the law was seen on even sizes


def test_without_a_law_only_the_result_is_foretold() -> None:
    series = [row("batched_rows", n=n, peak_bytes=2**n) for n in (4, 6, 8, 10, 12, 14)]
    (result,) = advice(*series, sizes=(64,)).foretold
    assert (result.method, result.bytes) == ("", 4 * 64 * 64)
    assert advice(*series, sizes=(64,), law_sizes=[]).foretold == ()


@pytest.mark.parametrize(
    ("target", "more", "lines"),
    [
        ("lib/mine.py:make", {}, ["import sys", 'sys.path.insert(0, "lib")', "from mine import make"]),
        ("mine.py:make", {}, ["from mine import make", "f, x = make(n=8)"]),
        ("mine.py:make", {"parameter": None}, ["from mine import make", "f, x = make()"]),
        ("pkg.mod:f", {"form": "f", "shape": [8, 3]}, ["from pkg.mod import f", "x = torch.randn(8, 3)"]),
        ("pkg.mod:g", {"form": "f", "dtype": "float64"}, ["f = g", "x = torch.randn(8, dtype=torch.float64)"]),
        (
            "mine.py:make",
            {"form": "example", "leaves": ["x['a']"], "has_args": True},
            [
                "example = make(n=8)", "f, x = example.f, example.x", "args = example.args",
                "v = torch.utils._pytree.tree_map(torch.randn_like, x)",
                'hv = hograd_core.hvp(f, x, v, args=args, method="double_backward")',
            ],
        ),
        (
            "mine.py:make",
            {"form": "module"},
            [
                "module, loss, inputs, targets = make(n=8)",
                "f, x = hograd_core.from_module(module, loss, (inputs, targets))",
            ],
        ),
    ],
)  # fmt: skip
def test_the_code_that_is_printed(target: str, more: dict[str, Any], lines: list[str]) -> None:
    about = described(**more)
    rows = frame_of([row("double_backward", operator="hvp") | {"dtype": about["dtype"]}])
    code = Advice({**REQUEST, "target": target}, about, rows, tuple(_plan.needs(about, ["hvp"]))).snippet()
    assert set(lines) <= set(code.splitlines()), code
    compile(code, "snippet", "exec")


def test_json_and_html_hold_everything() -> None:
    found = advice(row("rows"), row("batched_rows", "wrong", "a <b> & reason"), sizes=(64,))
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["needs"][0]["best"] == "rows"
    assert data["needs"][0]["snippet"] == found.snippet()
    assert len(data["rows"]) == 2
    for html in (found.to_html(), found._repr_html_()):
        assert "a &lt;b&gt; &amp; reason" in html
        assert 'method="rows"' in unescape(html)


def test_an_operator_that_needs_a_model_is_refused_without_one() -> None:
    with pytest.raises(
        ValueError, match=r"fisher_diagonal takes module, .* give a factory that returns \(module, loss"
    ):
        _plan.needs(described(), ["fisher_diagonal"])
    assert _plan.needs(described(form="module"), ["fisher_diagonal"])[0].operator == "fisher_diagonal"
    with pytest.raises(ValueError, match="operator: got 'hessain', expected one of"):
        _plan.needs(described(), ["hessain"])
    assert [n.order for n in _plan.needs(described(), [], order=4)] == [4, 4, 4]


def test_what_is_made_ready_is_taken_where_it_pays() -> None:
    def made(**metrics: Any) -> Any:
        ready = row("rows", **metrics)
        parts = ready["cell"].replace("/eager", "/graph")
        return {**ready, "cell": parts, "preparation": "graph"}

    eager = row("rows", seconds_min=9e-3)
    found = advice(eager, made(seconds_min=1e-3, breakeven_calls=12))
    assert (
        'prepared_H = hograd_core.prepare(hograd_core.hessian, f, x, method="rows", preparation="graph")'
        in found.snippet()
    )
    assert "rows, graph, pays after 12 calls" in str(found)
    (never,) = advice(eager, made(seconds_min=1e-3, breakeven_calls=None)).rankings
    assert never.best is never.at_once is not None


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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x.py:f", "--dtype", "int8"], "--dtype: got 'int8', expected one of"),
        (["x.py:f", "--shape", "3,zero"], "--shape: got '3,zero', expected sizes >= 1"),
    ],
)
def test_wrong_commands(arguments: list[str], says: str) -> None:
    from hograd_bench.cli import app

    result = CliRunner().invoke(app, ["advise", *arguments])
    assert result.exit_code == 2
    assert says in result.stderr


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


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_the_page_run(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOGRAD_CACHE", raising=False)
    page = (Path(__file__).parents[2] / "docs" / "advise.md").read_text(encoding="utf-8")
    block = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[number]
    scope: dict[str, Any] = {"__name__": "page"}
    exec(block, scope)
    if number:
        assert scope["H"].shape == (50, 50)
    else:
        assert scope["advice"].given
        assert set(scope["rows"]["method"]) == {"autograd", "func"}


def test_the_commands_of_the_page_are_commands() -> None:
    """Every option exists; what they do, others show."""
    from hograd_bench.cli import app

    page = (Path(__file__).parents[2] / "docs" / "advise.md").read_text(encoding="utf-8")
    shown = CliRunner().invoke(app, ["advise", "--help"], env={"COLUMNS": "200"}).stdout
    for option in re.findall(r"--[a-z]+", page.split("## `method")[0]):
        assert option in shown, option
