"""Kernels that are right at first and wrong later: planted, and found by the cell's own row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hograd_bench.cells import Cell
from hograd_bench.measure import measure
from hograd_bench.metrics import Missing, Subject, steadiness

import hograd_core

CELL = Cell("derivative_vector_product", "double_backward", "mlp", 6, 2, 2)
FAMILIES = ("accuracy", "counts", "steadiness")
Plant = Callable[[Callable[..., Any]], Callable[..., Any]]


def remembers_result(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A cache whose key is not the values."""
    kept: list[Any] = []

    def planted(*arguments: Any, **options: Any) -> Any:
        kept[:] = kept or [kernel(*arguments, **options)]
        return kept[0]

    return planted


def remembers_arguments(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """It goes on with the arguments of its first call."""
    kept: list[Any] = []

    def planted(f: Any, x: Any, v: Any, **options: Any) -> Any:
        kept[:] = kept or [x.clone(), v.clone()]
        return kernel(f, *kept, **options)

    return planted


def writes_into_arguments(kernel: Callable[..., Any]) -> Callable[..., Any]:
    def planted(f: Any, x: Any, v: Any, **options: Any) -> Any:
        result = kernel(f, x, v, **options)
        with torch.no_grad():
            v.mul_(1.01)
        return result

    return planted


def wrong_from(call: int) -> Plant:
    def plant(kernel: Callable[..., Any]) -> Callable[..., Any]:
        calls = [0]

        def planted(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            result = kernel(*arguments, **options)
            return result * 1.01 if calls[0] >= call else result

        return planted

    return plant


@pytest.fixture
def planted(request: pytest.FixtureRequest) -> Iterator[None]:
    method = hograd_core.operators()[CELL.operator].methods[CELL.method]
    kept = method.function
    object.__setattr__(method, "function", request.param(kept))
    try:
        yield
    finally:
        object.__setattr__(method, "function", kept)


def test_a_kernel_that_remembers_nothing_is_steady() -> None:
    row = measure(CELL, FAMILIES)
    assert (row["status"], row["metrics"]["steady"], row["metrics"]["follows_arguments"]) == ("ok", True, True)
    assert "file" not in row["details"]["results"]


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        (
            remembers_result,
            "after its arguments were halved in place, as if it remembered earlier calls: relative error",
        ),
        (remembers_arguments, "after its arguments were halved in place"),
        (writes_into_arguments, "relative error"),
        (wrong_from(2), "relative error"),
        (wrong_from(3), "a later call with the same arguments gives another result: relative error"),
        (wrong_from(5), "a later call with the same arguments gives another result: relative error"),
    ],
    indirect=["planted"],
    ids=["result", "arguments", "in place", "second call", "third call", "fifth call"],
)
@pytest.mark.usefixtures("planted")
def test_what_goes_wrong_later_is_wrong(says: str) -> None:
    row = measure(CELL, FAMILIES)
    assert row["status"] == "wrong"
    assert says in row["reason"]


def fails_at_halved(kernel: Callable[..., Any]) -> Callable[..., Any]:
    seen: list[float] = []

    def planted(f: Any, x: Any, v: Any, **options: Any) -> Any:
        seen.append(float(v.abs().sum()))
        if seen[-1] < 0.75 * seen[0]:
            raise RuntimeError("singular")
        return kernel(f, x, v, **options)

    return planted


@pytest.mark.parametrize("planted", [fails_at_halved], indirect=True)
@pytest.mark.usefixtures("planted")
def test_what_fails_at_halved_arguments_says_so_for_the_comparison_with_another_side() -> None:
    row = measure(CELL, FAMILIES)
    assert (row["status"], row["metrics"]["steady"]) == ("ok", True)
    assert row["missing"]["follows_arguments"] == "it fails at halved arguments: RuntimeError"
    assert row["details"]["results"]["fails_halved"]


def test_a_peer_is_not_asked_to_follow_arguments_that_it_does_not_share() -> None:
    subject = Subject(CELL)
    result = subject.call()
    subject.peer = SimpleNamespace(call=lambda: [result], tensors=lambda found: found[0])  # type: ignore[assignment]
    read = steadiness.measure(subject)
    assert (read.values["steady"], read.wrong) == (True, "")
    assert isinstance(read.values["follows_arguments"], Missing)


def test_arguments_are_halved_wherever_they_lie_and_once_each() -> None:
    x, held, module = torch.ones(2), torch.ones(3), torch.nn.Linear(1, 1)
    weight = module.weight.detach().clone()
    fixed, whole = torch.ones(1).expand(3), torch.ones(2, dtype=torch.int64)
    steadiness.halve((x, [held, x], {"a": (module, held)}, module, fixed, whole, "text"))
    assert x.tolist() == [0.5] * 2
    assert held.tolist() == [0.5] * 3
    assert torch.equal(module.weight.detach(), weight / 2)
    assert (fixed.tolist(), whole.tolist()) == ([1.0] * 3, [1, 1]), "what cannot be written to stays"


def test_results_are_kept_where_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(steadiness.KEEP, str(tmp_path))
    said = measure(CELL, FAMILIES)["details"]["results"]
    whole, halved = (np.fromfile(tmp_path / said[name], dtype="<f8") for name in ("file", "halved_file"))
    assert said["shapes"] == said["halved_shapes"] == [list(whole.shape)]
    assert not np.allclose(whole, halved)
    assert np.allclose(whole, hograd_core.hvp(*Subject(CELL).arguments).double().numpy())


def test_every_kind_of_result_is_saved(tmp_path: Path) -> None:
    sparse = hograd_core.sparse_hessian(lambda x: (x**2).sum() / 2, torch.ones(2))
    assert sparse.layout != torch.strided
    kept = (torch.ones(2, 2), [1.5, {"a": torch.tensor([1 + 2j])}], "text", sparse)
    assert steadiness.save(kept, tmp_path / "r") == [[2, 2], [], [1, 2], [2, 2]]
    assert np.fromfile(tmp_path / "r", dtype="<f8").tolist() == [1, 1, 1, 1, 1.5, 1, 2, 1, 0, 0, 1]


def test_two_sides_may_differ_by_rounding_and_by_what_a_method_states() -> None:
    exact = steadiness.allowed(Subject(CELL))
    assert exact == pytest.approx(4096 * 2 * torch.finfo(torch.float32).eps)
    sampled = (
        Subject(Cell("hessian_trace", "hutchinson", "mlp", 6)) if "hessian_trace" in hograd_core.operators() else None
    )
    assert sampled is None or steadiness.allowed(sampled) > exact
