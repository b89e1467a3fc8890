"""Cubic Newton steps: closed forms, optimality, the hard case, and a minimiser that leaves saddle points."""

from __future__ import annotations

import math

import pytest
import torch
from core_fakes import left_by, mostly_slow, normal, rosenbrock
from torch import Tensor

from hograd_core.reference import reference, relative_error, tolerance
from hograd_core.solvers import minimize_cubic_newton
from hograd_core.solvers._subproblem import solve_diagonal
from hograd_core.solvers.cubic import cubic_newton_step

METHODS = list(cubic_newton_step.methods)


def quadratic(n: int, seed: int = 0, shift: float = 0.0):
    a = normal(n, n, seed=seed)
    a = (a + a.T) / 2 + shift * torch.eye(n, dtype=torch.float64)
    b = normal(n, seed=seed + 1)
    return a, b, lambda x: 0.5 * (x.flatten() @ a @ x.flatten()) + b @ x.flatten()


@pytest.mark.parametrize("name", METHODS)
def test_closed_form_in_one_dimension(name: str) -> None:
    # f = g t + h t²/2: s = −sign(g) (√(h² + 2M|g|) − h) / M.
    for g, h, m in ((2.0, 3.0, 0.5), (-1.0, 0.0, 4.0), (0.3, -2.0, 1.0)):
        found = cubic_newton_step(
            lambda x, g=g, h=h: (g * x + h * x * x / 2).sum(), torch.zeros(1, dtype=torch.float64), m, method=name
        )
        size = (math.sqrt(h * h + 2 * m * abs(g)) - h) / m
        assert found.step.item() == pytest.approx(-math.copysign(size, g), rel=1e-12)
        assert found.multiplier.item() == pytest.approx(m * size / 2, rel=1e-12)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_optimality_on_indefinite_quadratics(name: str, shape: tuple[int, ...]) -> None:
    a, b, f = quadratic(6)
    x = normal(*shape, seed=3)
    m = 0.7
    found = cubic_newton_step(f, x, m, method=name)
    s, g = found.step.flatten(), a @ x.flatten() + b
    shifted = a + found.multiplier * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(shifted @ s, -g, rtol=1e-9, atol=1e-9)
    assert found.multiplier.item() == pytest.approx(m * s.norm().item() / 2, rel=1e-9)
    assert torch.linalg.eigvalsh(shifted)[0] > -1e-9
    assert found.step.shape == x.shape
    assert found.residual < 1e-9
    model = g @ s + s @ a @ s / 2 + m / 6 * s.norm() ** 3
    assert found.decrease.item() == pytest.approx(-model.item(), rel=1e-10)
    # A global minimum: no other point of the model is lower.
    for trial in normal(200, 6, seed=9) * s.norm():
        assert g @ trial + trial @ a @ trial / 2 + m / 6 * trial.norm() ** 3 >= model - 1e-12


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("m", [1e-3, 1.0, 1e3])
def test_against_truth(name: str, dtype: torch.dtype, m: float) -> None:
    x = torch.tensor([0.3, -0.7, 1.1, 0.2]).to(dtype)
    expected = reference("cubic_newton_step", rosenbrock, x.double(), m)
    assert set(expected) == {"step", "multiplier"}
    found = cubic_newton_step(rosenbrock, x, m, method=name)
    assert found.step.dtype == dtype
    assert relative_error(found, expected) <= 100 * tolerance(cubic_newton_step.method(name), dtype, 2)


def test_small_regularisation_gives_the_newton_step() -> None:
    a, b, f = quadratic(5, shift=6.0)
    found = cubic_newton_step(f, torch.zeros(5, dtype=torch.float64), 1e-10)
    torch.testing.assert_close(found.step, -torch.linalg.solve(a, b), rtol=1e-8, atol=1e-10)


def test_hard_case() -> None:
    # H = diag(−2, 1), g = (0, 1), M small: λ = 2, y_2 = −1/3, and y_1 fills up to ‖y‖ = 2λ/M.
    y, multiplier = solve_diagonal(torch.tensor([-2.0, 1.0]).double(), torch.tensor([0.0, 1.0]).double(), 0.5)
    assert multiplier == 2.0
    assert y[1].item() == pytest.approx(-1 / 3)
    assert y.norm().item() == pytest.approx(8.0)
    # With M large the plain solution is longer than 2λ/M at λ = 2, and the case is not hard.
    y, multiplier = solve_diagonal(torch.tensor([-2.0, 1.0]).double(), torch.tensor([0.0, 9.0]).double(), 50.0)
    assert multiplier > 2.0
    assert y[0] == 0
    assert y.norm().item() == pytest.approx(2 * multiplier / 50)


@pytest.mark.parametrize("scale", [1e-14, 1e-9, 1e-5, 1.0, 1e6])
def test_secular_equation_next_to_the_hard_case(scale: float) -> None:
    h = torch.tensor([-1.0, 0.5, 3.0]).double()
    g = torch.tensor([scale, 0.2, -0.1]).double()
    y, multiplier = solve_diagonal(h, g, 0.3)
    assert y.norm().item() == pytest.approx(2 * multiplier / 0.3, rel=1e-6)
    assert multiplier >= 1.0
    torch.testing.assert_close((h + multiplier)[1:] * y[1:], -g[1:], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", METHODS)
def test_stationary_points(name: str) -> None:
    bowl = cubic_newton_step(lambda x: (x * x).sum(), torch.zeros(3, dtype=torch.float64), method=name)
    assert bool((bowl.step == 0).all())
    assert bowl.multiplier == 0
    # At the strict saddle of x² − y² the step leaves along y.
    saddle = cubic_newton_step(lambda x: x[0] ** 2 - x[1] ** 2, torch.zeros(2, dtype=torch.float64), 1.0, method=name)
    assert saddle.multiplier.item() == pytest.approx(2.0, rel=1e-9)
    assert abs(saddle.step[0].item()) < 1e-6
    assert abs(saddle.step[1].item()) == pytest.approx(4.0, rel=1e-9)


def test_lanczos_reaches_the_dense_step_in_few_products() -> None:
    n = 60
    eigenvalues = torch.cat([torch.full((50,), 2.0), torch.linspace(3, 12, 10)]).double()
    q, _ = torch.linalg.qr(normal(n, n))
    a = q @ torch.diag(eigenvalues) @ q.T
    b = normal(n, seed=5)

    def f(x: Tensor) -> Tensor:
        return x @ a @ x / 2 + b @ x

    x = torch.zeros(n, dtype=torch.float64)
    dense = cubic_newton_step(f, x, 2.0)
    found = cubic_newton_step(f, x, 2.0, method="lanczos")
    torch.testing.assert_close(found.step, dense.step, rtol=1e-9, atol=1e-11)
    # Eleven distinct eigenvalues exhaust the Krylov space; as many products look for negative curvature outside.
    assert found.products <= 26
    loose = cubic_newton_step(f, x, 2.0, method="lanczos", relative_tolerance=1e-2)
    assert loose.products < found.products
    assert loose.residual < 2e-2


@pytest.mark.parametrize("name", METHODS)
def test_rosenbrock_is_minimised(name: str) -> None:
    found = minimize_cubic_newton(rosenbrock, torch.tensor([-1.2, 1.0]).double(), step_method=name)
    assert found.status == "converged"
    torch.testing.assert_close(found.x, torch.ones(2, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert found.iterations < 80


def test_a_strict_saddle_is_left() -> None:
    # x² − y² + y⁴ has a saddle at 0, where its gradient vanishes, and minima −1/4 at y = ±1/√2.
    found = minimize_cubic_newton(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, torch.zeros(2, dtype=torch.float64))
    assert found.status == "converged"
    assert found.value == pytest.approx(-0.25, abs=1e-12)
    assert abs(found.x[1].item()) == pytest.approx(math.sqrt(0.5), abs=1e-6)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("start", [(1.0, 0.0), (0.3, 0.0), (0.0, 0.0)])
def test_a_saddle_is_left_though_the_gradient_never_points_out_of_it(name: str, start: tuple[float, float]) -> None:
    # On y = 0 the gradient has no part along y, nor has any Krylov space of it; −1/4 is at y = ±1/√2.
    x = torch.tensor(start, dtype=torch.float64)
    found = minimize_cubic_newton(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, x, step_method=name)
    assert found.status == "converged"
    assert found.value == pytest.approx(-0.25, abs=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_values_that_are_not_finite_are_named(name: str) -> None:
    at_kink = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(FloatingPointError, match=r"f: .*Hessian at x"):
        cubic_newton_step(lambda x: (x**2 + x.abs() ** 1.5).sum() + x[0], at_kink, method=name)
    with pytest.raises(FloatingPointError, match="f: its gradient at x"):
        cubic_newton_step(lambda x: x.log().sum(), at_kink, method=name)
    found = minimize_cubic_newton(lambda x: (x.abs() ** 1.5).sum() + x[0], at_kink, step_method=name)
    assert found.status == "not_finite"


def test_failures_are_named() -> None:
    found = minimize_cubic_newton(lambda x: x.log().sum(), torch.full((2,), -1.0, dtype=torch.float64))
    assert found.status == "not_finite"
    found = minimize_cubic_newton(rosenbrock, torch.zeros(3, dtype=torch.float64), max_iterations=2)
    assert found.status == "max_iterations"
    assert found.iterations == 2
    with pytest.raises(ValueError, match="regularisation: got 0"):
        cubic_newton_step(rosenbrock, torch.zeros(2), 0.0)
    with pytest.raises(TypeError, match="regularisation: got str"):
        cubic_newton_step(rosenbrock, torch.zeros(2), "1")
    with pytest.raises(ValueError, match="max_iterations"):
        minimize_cubic_newton(rosenbrock, torch.zeros(2), max_iterations=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(METHODS))
def test_nothing_is_kept_after_a_hundred_steps(name: str) -> None:
    x = normal(5)
    assert left_by(lambda: cubic_newton_step(rosenbrock, x, method=name)) <= 0
