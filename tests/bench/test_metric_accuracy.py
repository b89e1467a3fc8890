"""Verdicts on right, wrong, damaged and unjudgeable results."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hograd_bench.cells import Cell
from hograd_bench.metrics import Missing, Subject, _truths, accuracy
from torch import Tensor

from hograd_core import reference
from hograd_core.reference import TruthError, magnitude

HVP = "derivative_vector_product"


def subject(problem: str = "mlp", n: int = 5, dtype: str = "float32", order: int = 2) -> Subject:
    return Subject(Cell(HVP, "double_backward", problem, n, order, dtype=dtype))


def spoiled(by: Callable[[Tensor], Any], dtype: str = "float32") -> Subject:
    made = subject(dtype=dtype)
    right = made.call
    made.call = lambda: by(right())  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_right_result(dtype: str) -> None:
    made = subject(dtype=dtype)
    assert accuracy.verdict(made) is None
    read = accuracy.measure(made).values
    assert set(read) == {metric.name for metric in accuracy.METRICS}
    error, ulps, allowed = (read[k] for k in ("relative_error", "ulp_error", "tolerance"))
    assert isinstance(error, float)
    assert isinstance(allowed, float)
    assert 0 <= error <= allowed
    assert ulps == error / torch.finfo(getattr(torch, dtype)).eps


@pytest.mark.parametrize(
    "by",
    [torch.zeros_like, torch.neg, lambda h: h * 1.001, lambda h: h + 1e-3, lambda h: h.flip(0)],
    ids=["zero", "wrong sign", "wrong factor", "offset", "permuted"],
)
def test_a_wrong_result(by: Callable[[Tensor], Tensor]) -> None:
    made = spoiled(by)
    reason = accuracy.verdict(made)
    assert reason is not None
    assert "exceeds the tolerance" in reason
    assert accuracy.measure(made).values["relative_error"] > accuracy.measure(made).values["tolerance"]


@pytest.mark.parametrize(
    "by", [lambda h: h * math.nan, lambda h: h / 0.0, lambda h: h[1:], lambda h: (h, h), lambda h: None]
)
def test_a_damaged_result(by: Callable[[Tensor], Any]) -> None:
    made = spoiled(by)
    assert "not finite, or of another shape" in str(accuracy.verdict(made))
    assert isinstance(accuracy.measure(made).values["relative_error"], Missing)


def test_the_error_is_that_of_the_result_and_not_of_the_inputs() -> None:
    """In bfloat16 the point is off by 1e-3; a float64 result at that very point has an error of float64's size."""
    made = subject(dtype="bfloat16")
    (exact,) = made.precise().each(made.operator)
    made.call = lambda: made.operator(*exact, order=2)  # type: ignore[method-assign]
    error = accuracy.measure(made).values["relative_error"]
    assert isinstance(error, float)
    assert error < 1e-12


def test_without_truth_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "has_truth", lambda name: False)
    made = subject()
    assert "has no reference" in str(accuracy.verdict(made))
    assert accuracy.measure(made).values["relative_error"] == Missing(f"{HVP} has no reference")


def test_a_truth_in_doubt_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubt(*arguments: Any, **keywords: Any) -> Any:
        raise TruthError("two routes differ")

    monkeypatch.setattr(reference, "true_value", doubt)
    monkeypatch.setattr(_truths, "_truths", type(_truths._truths)())
    made = subject()
    assert "two routes differ" in str(accuracy.verdict(made))
    assert accuracy.measure(made).values["relative_error"] == Missing("truth is in doubt: two routes differ")


def test_truth_is_shared_by_methods_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    true_value = reference.true_value

    def counting(*arguments: Any, **keywords: Any) -> Any:
        taken.append(arguments[0])
        return true_value(*arguments, **keywords)

    monkeypatch.setattr(reference, "true_value", counting)
    monkeypatch.setattr(_truths, "_truths", type(_truths._truths)())
    for method in ("double_backward", "functional_hvp", "double_backward"):
        assert accuracy.verdict(Subject(Cell(HVP, method, "mlp", 6))) is None
    assert len(taken) == 1
    # Another dtype is another point; another order another truth.
    accuracy.verdict(subject(n=6, dtype="float64"))
    accuracy.verdict(subject(n=6, order=3))
    assert len(taken) == 3
    for n in range(2, 3 + _truths.TRUTHS_KEPT):
        accuracy.verdict(subject(n=n))
    assert len(_truths._truths) == _truths.TRUTHS_KEPT
    monkeypatch.setattr(_truths, "TRUTH_BYTES_KEPT", 8)
    monkeypatch.setattr(_truths, "_truths", type(_truths._truths)())
    accuracy.verdict(subject())
    assert not _truths._truths


def test_asymmetry_is_the_largest_exchange_of_slots() -> None:
    matrix = torch.tensor([[1.0, 2.0], [2.5, 4.0]])
    assert accuracy.asymmetry(matrix, 2) == 0.5 / 4.0
    assert accuracy.asymmetry(matrix + matrix.T, 2) == 0.0
    third = torch.zeros(2, 2, 2)
    third[0, 1, 1] = 3.0  # symmetric in the last two slots alone
    assert accuracy.asymmetry(third, 3) == 1.0
    assert accuracy.asymmetry(torch.zeros(2, 2), 2) == 0.0
    shaped = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert accuracy.asymmetry(shaped.reshape(2, 3, 2, 3), 2) == accuracy.asymmetry(shaped, 2) > 0


@pytest.mark.parametrize(
    ("result", "order", "why"),
    [
        (torch.ones(3), 1, "one slot"),
        (torch.ones(3, 4), 2, "not of a slot's shape"),
        (None, 2, "not of a slot's shape"),
        (torch.full((2, 2), math.nan), 2, "not finite"),
    ],
)
def test_asymmetry_is_missing_with_its_reason(result: Any, order: int, why: str) -> None:
    found = accuracy.asymmetry(result, order)
    assert isinstance(found, Missing)
    assert why in found.reason


def test_only_full_tensors_have_an_asymmetry() -> None:
    assert isinstance(accuracy.measure(subject()).values["asymmetry"], Missing)
    full = Subject(Cell("derivative_tensor", "rows", "mlp", 5, 2))
    read = accuracy.measure(full).values["asymmetry"]
    assert isinstance(read, float)
    assert 0 <= read <= 100 * 2.0**-23
    right = full.call
    spoilt = Subject(Cell("derivative_tensor", "rows", "mlp", 5, 2))
    spoilt.call = lambda: right().triu()  # type: ignore[method-assign]
    assert accuracy.measure(spoilt).values["asymmetry"] > 0.01


def test_deviation_and_magnitude_say_what_an_approximation_loses() -> None:
    made = spoiled(lambda h: 0.75 * h)
    read = accuracy.measure(made).values
    assert read["deviation"] == pytest.approx(0.25, rel=1e-4)
    assert read["magnitude"] == pytest.approx(0.75, rel=1e-4)


def test_deviation_does_not_hide_behind_the_conditioning() -> None:
    """A natural-gradient step's error is held to condition number times its size; its deviation is not."""
    cell = Cell("natural_gradient_step", "diagonal", "friedman_loss", 4, batch=8)
    read = accuracy.measure(Subject(cell)).values
    assert isinstance(read["deviation"], float)
    assert isinstance(read["relative_error"], float)
    assert read["deviation"] > 0.5 > read["relative_error"]


def test_a_squared_mean_gradient_is_as_small_as_independent_samples_make_it() -> None:
    """One sample: the square of its gradient, exactly. Many: too small, and never too large."""
    sizes = {
        batch: accuracy.measure(
            Subject(Cell("empirical_fisher_diagonal", "squared_mean_gradient", "digits_loss", 4, batch=batch))
        ).values["magnitude"]
        for batch in (1, 2, 16)
    }
    assert sizes[1] == pytest.approx(1, rel=1e-5)
    assert 0 < sizes[16] < sizes[2] < 1


def test_magnitude_is_missing_where_it_means_nothing() -> None:
    assert math.isnan(magnitude(torch.ones(2), torch.zeros(2)))
    assert math.isnan(magnitude(torch.ones(2), (torch.ones(2), torch.ones(2))))
    assert magnitude({"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.ones(2), "b": -torch.ones(1)}) == 1
    made = spoiled(lambda h: h * math.nan)
    assert isinstance(accuracy.measure(made).values["magnitude"], Missing)
