"""hograd_bench.measure: a function at hand, as a frame; and the tutorial, executed."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import hograd_bench
import pytest
import torch
from hograd_bench import interactive

ROOT = Path(__file__).parents[2]
COUNTED = ("memory", "counts")


def cubic(x: torch.Tensor) -> torch.Tensor:
    return (x**3).sum()


@pytest.fixture(scope="module")
def tutorial() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "tutorial.py"))


@pytest.mark.slow
def test_the_tutorial_measures_every_method(tutorial: dict[str, Any]) -> None:
    frame = tutorial["frame"]
    assert set(frame["status"]) <= {"ok", "unsupported"}
    assert set(frame["operator"]) == {"derivative_vector_product", "derivative_tensor"}
    right = frame[frame["status"] == "ok"]
    assert {"rows", "batched_rows", "double_backward"} <= set(right["method"])
    assert (right["seconds_min"] > 0).all()
    assert (right["peak_bytes"] > 0).all()
    assert set(frame["problem"]) == {"energy"}


@pytest.mark.slow
def test_the_tutorial_finds_laws(tutorial: dict[str, Any]) -> None:
    laws = tutorial["laws"].set_index(["method", "metric"])
    assert set(laws["kind"]) == {"exact"}
    assert "n²" in laws.loc[("batched_rows", "peak_bytes"), "law"]
    assert "<table" in tutorial["laws"]._repr_html_()


@pytest.mark.slow
def test_the_example_of_the_page_runs() -> None:
    page = (ROOT / "docs" / "your_project.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"## In Python\n\n```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert (names["frame"]["status"] == "ok").any()
    assert set(names["laws"]["kind"]) == {"exact"}


def test_a_wrong_method_is_a_row_that_says_so() -> None:
    @hograd_bench.method("hessian", "halved")
    def halved(f: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.func.hessian(f)(x) / 2

    def f(x: dict[str, torch.Tensor], scale: float) -> torch.Tensor:
        return scale * (cubic(x["a"]) + cubic(x["b"]))

    x = {"a": torch.ones(2), "b": torch.ones(1)}
    frame = hograd_bench.measure(f, x, args=(2.0,), operators=["hessian"], methods=["rows", "halved"], families=COUNTED)
    assert frame.set_index("method")["status"].to_dict() == {"rows": "ok", "halved": "wrong"}
    assert frame["numel"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"f": 3, "x": torch.ones(2)}, TypeError, "f: got int, expected a callable"),
        ({"f": cubic}, ValueError, "x, n: got both or neither"),
        ({"f": cubic, "x": torch.ones(2), "n": 3}, ValueError, "x, n: got both or neither"),
        ({"f": cubic, "n": 3}, ValueError, "n: got 3, but cubic takes no argument n"),
        ({"f": cubic, "x": torch.ones(2), "operators": ["hesian"]}, ValueError, "operator: got 'hesian'"),
        ({"f": cubic, "x": torch.ones(2), "operators": ["fisher_matrix"]}, ValueError, "fisher_matrix needs module"),
        ({"f": cubic, "x": torch.ones(2), "methods": ["row"]}, ValueError, "method: got 'row'"),
        (
            {"f": cubic, "x": torch.ones(2), "families": ["bytes"]},
            ValueError,
            "families: got 'bytes', expected some of",
        ),
    ],
)
def test_what_cannot_be_meant_is_named(given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        interactive.measure(**given)


def test_the_package_is_called_by_the_names_of_its_rooms() -> None:
    assert hograd_bench.measure.measure
    frame = hograd_bench.measure(cubic, torch.ones(2), operators=["gradient"], families=COUNTED)
    assert (frame["status"] == "ok").all()
    assert frame["numel"].tolist() == [2] * len(frame)
