"""Advice as it is read: code that runs as printed, JSON, HTML, the page of the documentation, the command."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from advise_fakes import REQUEST, advice, described, row
from hograd_bench.advise import _plan, _terminal
from hograd_bench.advise._advice import Advice, frame_of
from typer.testing import CliRunner


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


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"parameter": None, "law_sizes": []}, "the target has no size; a factory make(n)"),
        ({"law_sizes": []}, "the function runs at this size alone"),
        ({}, "no law was found from the small sizes"),
    ],
)
def test_why_nothing_is_foretold_is_said(about: dict[str, Any], said: str) -> None:
    found = advice(row("rows"), **about)
    assert found.foretold == ()
    assert f"At other sizes nothing is foretold: {said}" in _terminal.text(found)


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x.py:f", "--dtype", "int8"], "--dtype: got 'int8', expected one of"),
        (["x.py:f", "--shape", "3,zero"], "--shape: got '3,zero', expected sizes >= 1"),
        (["x.py:f", "--shape", "x"], "--shape: got 'x', expected sizes >= 1"),
        (["x.py:f", "--device", "gpu"], "--device: got 'gpu', expected cpu or cuda"),
    ],
)
def test_wrong_commands(arguments: list[str], says: str) -> None:
    from hograd_bench.cli import app

    result = CliRunner().invoke(app, ["advise", *arguments])
    assert result.exit_code == 2
    assert says in result.stderr
