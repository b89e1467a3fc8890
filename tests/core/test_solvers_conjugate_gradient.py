"""Truncated conjugate gradients: finite termination, trust region, negative curvature, preconditioning, report."""

from __future__ import annotations

import math

import pytest
import torch
from core_fakes import normal, with_spectrum
from torch import Tensor

from hograd_core.curvature import MatrixOperator
from hograd_core.solvers import conjugate_gradient


def model(a: Tensor, b: Tensor, p: Tensor) -> float:
    return float(b @ p - 0.5 * p @ a @ p)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
@pytest.mark.parametrize("seed", range(5))
def test_exact_in_n_steps_on_a_positive_definite_system(n: int, seed: int) -> None:
    a, b = with_spectrum(torch.linspace(1, 30, n, dtype=torch.float64), seed), normal(n, seed=seed + 50)
    result = conjugate_gradient(MatrixOperator.dense(a), b)
    assert result.converged
    assert result.iterations <= n
    torch.testing.assert_close(result.step, torch.linalg.solve(a, b), rtol=1e-9, atol=1e-10)


def test_as_many_steps_as_distinct_eigenvalues() -> None:
    a = with_spectrum(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64).repeat(10))
    assert conjugate_gradient(MatrixOperator.dense(a), normal(30)).iterations == 3


def test_the_report_is_true() -> None:
    a, b = with_spectrum(torch.logspace(0, 2, 30, dtype=torch.float64)), normal(30, seed=1)
    operator = MatrixOperator.dense(a)
    for limit in (1, 4, 9):
        result = conjugate_gradient(operator, b, max_iterations=limit, relative_tolerance=1e-3)
        assert result.iterations == result.products == limit
        assert result.status == "max_iterations"
        assert len(result.residuals) == limit + 1
        assert result.residuals[-1] == pytest.approx(float((b - a @ result.step).norm()), rel=1e-9)
        assert result.decrease == pytest.approx(model(a, b, result.step), rel=1e-9)
        assert result.norm == pytest.approx(float(result.step.norm()), rel=1e-9)
        assert result.tolerance == pytest.approx(1e-3 * float(b.norm()))


@pytest.mark.parametrize("relative", [0.5, 1e-2, 1e-6])
def test_it_stops_at_the_first_residual_within_the_tolerance(relative: float) -> None:
    a, b = with_spectrum(torch.logspace(0, 2, 30, dtype=torch.float64)), normal(30, seed=1)
    result = conjugate_gradient(MatrixOperator.dense(a), b, relative_tolerance=relative)
    assert result.converged
    assert result.residuals[-1] <= relative * float(b.norm()) < result.residuals[-2]
    absolute = conjugate_gradient(MatrixOperator.dense(a), b, relative_tolerance=0, absolute_tolerance=0.1)
    assert absolute.residuals[-1] <= 0.1 < absolute.residuals[-2]


def test_a_zero_right_hand_side_is_solved_by_zero() -> None:
    result = conjugate_gradient(MatrixOperator.dense(torch.eye(3)), torch.zeros(3))
    assert result.converged
    assert result.iterations == result.products == 0
    assert torch.equal(result.step, torch.zeros(3))


def test_no_constant_in_a_denominator() -> None:
    # With 1e-8 added to either quotient these scales give another vector altogether.
    a, b = with_spectrum(torch.linspace(1, 3, 6, dtype=torch.float64)), normal(6)
    for scale in (1e-14, 1e14):
        result = conjugate_gradient(MatrixOperator.dense(scale * a), 1e-6 * b)
        torch.testing.assert_close(result.step * scale, 1e-6 * torch.linalg.solve(a, b), rtol=1e-9, atol=0)


# --- trust region -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9])
def test_a_long_solution_is_cut_at_the_boundary(fraction: float) -> None:
    a, b = with_spectrum(torch.logspace(0, 2, 20, dtype=torch.float64)), normal(20, seed=1)
    newton = torch.linalg.solve(a, b)
    radius = fraction * float(newton.norm())
    result = conjugate_gradient(MatrixOperator.dense(a), b, radius=radius)
    assert result.status == "boundary"
    assert float(result.step.norm()) == pytest.approx(radius, rel=1e-12)
    assert result.norm == radius
    assert result.decrease == pytest.approx(model(a, b, result.step), rel=1e-9)
    cauchy = b * min(radius / float(b.norm()), float(b @ b) / float(b @ a @ b))
    assert result.decrease >= model(a, b, cauchy) * (1 - 1e-12)


def test_a_short_solution_is_not_cut() -> None:
    a, b = with_spectrum(torch.linspace(1, 9, 8, dtype=torch.float64)), normal(8)
    newton = torch.linalg.solve(a, b)
    result = conjugate_gradient(MatrixOperator.dense(a), b, radius=1.001 * float(newton.norm()))
    assert result.converged
    torch.testing.assert_close(result.step, newton)


# --- negative curvature -------------------------------------------------------------------------------------


def test_negative_curvature_goes_to_the_boundary_of_the_region() -> None:
    a, b = with_spectrum(torch.linspace(-2, 5, 12, dtype=torch.float64)), normal(12)
    result = conjugate_gradient(MatrixOperator.dense(a), b, radius=3.0)
    assert result.status == "negative_curvature"
    assert result.products == result.iterations + 1
    assert float(result.step.norm()) == pytest.approx(3.0, rel=1e-12)
    assert result.decrease == pytest.approx(model(a, b, result.step), rel=1e-9)
    assert result.decrease > 0


def test_without_a_region_the_iterate_so_far_is_returned() -> None:
    values = torch.linspace(1, 5, 12, dtype=torch.float64)
    values[0] = -0.01
    a, b = with_spectrum(values), normal(12)
    result = conjugate_gradient(MatrixOperator.dense(a), b)
    assert result.status == "negative_curvature"
    assert result.iterations > 0
    same = conjugate_gradient(MatrixOperator.dense(a), b, max_iterations=result.iterations)
    torch.testing.assert_close(result.step, same.step)
    assert float(b @ result.step) > 0, "a descent direction for b = -g"


def test_in_the_first_iteration_the_direction_is_scaled_by_the_curvature() -> None:
    a, b = -torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64)), torch.tensor([1.0, 1.0], dtype=torch.float64)
    result = conjugate_gradient(MatrixOperator.dense(a), b)
    torch.testing.assert_close(result.step, b * (2 / 5))
    flat = conjugate_gradient(MatrixOperator.dense(0 * a), b)
    assert flat.status == "negative_curvature"
    torch.testing.assert_close(flat.step, b)


def test_a_consistent_singular_system_has_the_solution_of_least_norm() -> None:
    values = torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0, 5.0], dtype=torch.float64)
    a = with_spectrum(values)
    b = a @ normal(6)
    result = conjugate_gradient(MatrixOperator.dense(a), b)
    assert result.converged
    torch.testing.assert_close(result.step, torch.linalg.pinv(a, rtol=1e-10) @ b)


def test_an_inconsistent_singular_system_ends_without_blowing_up() -> None:
    a = with_spectrum(torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64))
    result = conjugate_gradient(MatrixOperator.dense(a), normal(4))
    assert result.status == "negative_curvature", "curvature zero to rounding"
    assert result.step.norm() < 100


# --- preconditioning ----------------------------------------------------------------------------------------


def test_the_exact_inverse_as_preconditioner_needs_one_iteration() -> None:
    a, b = with_spectrum(torch.logspace(0, 4, 20, dtype=torch.float64)), normal(20)
    inverse = torch.linalg.inv(a)
    result = conjugate_gradient(MatrixOperator.dense(a), b, preconditioner=lambda r: inverse @ r)
    assert result.iterations == 1
    torch.testing.assert_close(result.step, torch.linalg.solve(a, b))


def test_a_diagonal_preconditioner_saves_iterations_and_keeps_the_solution() -> None:
    scaling = torch.logspace(0, 3, 30, dtype=torch.float64)
    a = scaling[:, None] * with_spectrum(torch.linspace(1, 2, 30, dtype=torch.float64)) * scaling
    b, operator = normal(30), MatrixOperator.dense(a)
    plain = conjugate_gradient(operator, b, relative_tolerance=1e-8, max_iterations=500)
    helped = conjugate_gradient(operator, b, relative_tolerance=1e-8, preconditioner=lambda r: r / a.diagonal())
    assert helped.converged
    assert helped.iterations < plain.iterations / 2
    torch.testing.assert_close(helped.step, torch.linalg.solve(a, b), rtol=1e-5, atol=1e-9)


def test_with_a_preconditioner_the_radius_bounds_its_norm() -> None:
    a, b = with_spectrum(torch.logspace(0, 2, 20, dtype=torch.float64)), normal(20, seed=1)
    m = torch.linspace(1, 10, 20, dtype=torch.float64)
    for radius in (0.05, 0.3):
        result = conjugate_gradient(MatrixOperator.dense(a), b, radius=radius, preconditioner=lambda r: r / m)
        assert result.status == "boundary"
        assert math.sqrt(float(result.step @ (m * result.step))) == pytest.approx(radius, rel=1e-9)
    free = conjugate_gradient(MatrixOperator.dense(a), b, max_iterations=5, preconditioner=lambda r: r / m)
    assert free.norm == pytest.approx(math.sqrt(float(free.step @ (m * free.step))), rel=1e-9)


# --- precision and refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision(dtype: torch.dtype) -> None:
    a = with_spectrum(torch.linspace(1, 4, 8, dtype=torch.float64)).to(dtype)
    b = (100 * normal(8)).to(dtype)
    result = conjugate_gradient(MatrixOperator.dense(a), b)
    true = torch.linalg.solve(a.double(), b.double())
    assert result.step.dtype == torch.float32
    assert (result.step.double() - true).norm() < 60 * torch.finfo(dtype).eps ** 0.75 * true.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"b": torch.ones(2)}, r"b: got shape \(2,\), expected \(3,\)"),
        ({"radius": 0.0}, "radius: got 0.0"),
        ({"relative_tolerance": -1.0}, "relative_tolerance"),
        ({"max_iterations": 0}, "max_iterations: got 0"),
        ({"preconditioner": lambda r: -r}, r"preconditioner: got r\^T M\^-1 r = -3.0"),
    ],
)
def test_refusals(options: dict[str, object], message: str) -> None:
    arguments = {"b": torch.ones(3), **options}
    with pytest.raises(ValueError, match=message):
        conjugate_gradient(MatrixOperator.dense(torch.eye(3)), **arguments)  # type: ignore[arg-type]


def test_values_that_are_not_finite_are_named() -> None:
    with pytest.raises(FloatingPointError, match=r"^b: holds"):
        conjugate_gradient(MatrixOperator.dense(torch.eye(2)), torch.tensor([1.0, float("nan")]))
    with pytest.raises(FloatingPointError, match="not finite in iteration 1"):
        conjugate_gradient(MatrixOperator.dense(torch.eye(2) * float("inf")), torch.ones(2))
