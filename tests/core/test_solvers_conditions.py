"""Solvers under the caller's modes, near the hard case, at saddles, and with arguments that do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import hograd_core as hg
from hograd_core._unsupported import UnsupportedError
from hograd_core.applications.gradient_penalty import half_square, penalty
from hograd_core.applications.pinn import (
    field_derivatives,
    gaussian_bilaplacian,
    heat,
    hutchinson_laplacian,
    residual,
    sampled_laplacian,
)
from hograd_core.curvature import MatrixOperator
from hograd_core.solvers import conjugate_gradient, minimize_cubic_newton, minimize_newton, newton_cg

D = torch.float64


def model_of(g: Tensor, h: Tensor, m: float, s: Tensor) -> float:
    return float(g @ s + s @ h @ s / 2 + m / 6 * s.norm() ** 3)


def least(g: Tensor, h: Tensor, m: float) -> float:
    """The minimum of the cubic model, by bisection on λ in the eigenbasis; the limit from above is the hard case."""
    values, vectors = torch.linalg.eigh(h)
    c, shift = vectors.T @ g, max(0.0, -float(values[0]))
    low, high = -600.0, math.log(shift + math.sqrt(m * float(g.norm())) + 1)
    for _ in range(300):
        mid = (low + high) / 2
        y = -c / (values + shift + math.exp(mid))
        low, high = (mid, high) if float(y.norm()) > 2 * (shift + math.exp(mid)) / m else (low, mid)
    y = -c / (values + shift + math.exp(high))
    short = (2 * shift / m) ** 2 - float(y @ y)
    if shift and short > 0:
        y[0] -= math.copysign(math.sqrt(short + float(y[0]) ** 2) - abs(float(y[0])), float(c[0]))
    return float(c @ y + (values * y) @ y / 2 + m / 6 * y.norm() ** 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(hg.cubic_newton_step.methods))
def test_two_hundred_steps_next_to_the_hard_case(name: str) -> None:
    generator = torch.Generator().manual_seed(7)
    parts = [0.0, *(10.0**-k for k in range(8, 18))]
    for trial in range(200):
        n = 3 + trial % 6
        q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=D))[0]
        rest = torch.rand(n - 1, generator=generator, dtype=D) * 4 - 0.5
        values = torch.cat([torch.tensor([-1.0 - trial % 3], dtype=D), rest])
        g = torch.randn(n, generator=generator, dtype=D)
        g[0] = parts[trial % len(parts)] * (-1) ** trial
        h, g, m = q @ torch.diag(values) @ q.T, q @ g, 10.0 ** (trial % 4 - 2)
        h = (h + h.T) / 2
        zero = torch.zeros(n, dtype=D)
        found = hg.cubic_newton_step(lambda x, g=g, h=h: g @ x + x @ h @ x / 2, zero, m, method=name)
        assert found.multiplier.item() == pytest.approx(m * found.step.norm().item() / 2, rel=1e-8)
        assert found.multiplier >= -torch.linalg.eigvalsh(h)[0] - 1e-8
        assert found.residual < 1e-8
        best = -least(g, h, m)
        assert -model_of(g, h, m, found.step) == pytest.approx(best, rel=1e-7)
        assert found.decrease.item() == pytest.approx(best, rel=1e-7)


def shifted(x: Tensor) -> Tensor:
    return ((x - 3) ** 2).sum()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_modes_of_the_caller_change_nothing(mode: Callable[[], torch.no_grad]) -> None:
    with mode():
        x = torch.zeros(3, dtype=D)
        three = torch.full((3,), 3.0, dtype=D)
        torch.testing.assert_close(minimize_newton(shifted, x).x, three)
        torch.testing.assert_close(minimize_cubic_newton(shifted, x).x, three, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(newton_cg(shifted, x).step, three)
        torch.testing.assert_close(hg.newton_cg_step(shifted, x), three)
        points = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=D)
        second = field_derivatives(lambda p: (p**3).sum(1), points, [(0, 0)])
        torch.testing.assert_close(second[0], 6 * points[:, 0])
        assert not second.requires_grad
        # r = u_t − u_xx of u = x³ + t³.
        torch.testing.assert_close(
            residual(lambda p: (p**3).sum(1), points, heat()), 3 * points[:, 1] ** 2 - 6 * points[:, 0]
        )
        torch.testing.assert_close(penalty(lambda z: (z**2).sum(1), points, half_square), (2 * points**2).sum(1).mean())


def test_saddles_and_maxima_are_no_minima() -> None:
    saddle = minimize_newton(lambda x: x[0] ** 2 - x[1] ** 2, torch.tensor([1.0, 0.0], dtype=D))
    assert (saddle.status, saddle.converged) == ("saddle", False)
    assert saddle.lowest_curvature == pytest.approx(-2)
    assert saddle.descent is not None
    assert abs(saddle.descent[1].item()) == pytest.approx(1)
    assert minimize_newton(lambda x: -(x * x).sum(), torch.zeros(2, dtype=D)).status == "maximum"
    assert minimize_newton(lambda x: (x**4).sum(), torch.zeros(2, dtype=D)).status == "converged"


def test_a_start_that_is_not_finite_is_a_status_of_both_minimisers() -> None:
    x = torch.full((2,), -1.0, dtype=D)
    assert minimize_newton(lambda x: x.log().sum(), x).status == "not_finite"
    assert minimize_cubic_newton(lambda x: x.log().sum(), x).status == "not_finite"


def test_conjugate_gradients_name_what_does_not_fit() -> None:
    a = MatrixOperator.dense(2 * torch.eye(2, dtype=D))
    b = torch.ones(2, dtype=D)
    with pytest.raises(TypeError, match=r"b: got dtype torch\.float32, expected torch\.float64"):
        conjugate_gradient(a, b.float())
    with pytest.raises(ValueError, match="relative_tolerance: got -1"):
        conjugate_gradient(a, b, relative_tolerance=-1.0)
    with pytest.raises(ValueError, match="absolute_tolerance: got -1"):
        conjugate_gradient(a, b, absolute_tolerance=-1.0)
    with pytest.raises(FloatingPointError, match="b: its squared norm over"):
        conjugate_gradient(a, b * 1e200)
    found = conjugate_gradient(a, b.clone().requires_grad_()).step
    assert not found.requires_grad
    torch.testing.assert_close(found, b / 2)


def test_an_unsolved_fisher_system_is_told() -> None:
    module = nn.Linear(3, 2).double()
    inputs, targets = torch.randn(8, 3, dtype=D), torch.randint(2, (8,))
    with pytest.warns(RuntimeWarning, match="max_iterations: got 1"):
        hg.natural_gradient_step(module, nn.CrossEntropyLoss(), inputs, targets, max_iterations=1)


def test_compositions_are_right_or_refused() -> None:
    x = torch.ones(1, 1, dtype=D)

    def inner(p: Tensor) -> Tensor:
        return hg.laplacian(lambda q: (q**4).sum(1), p)

    for name in ("nested_reverse", "taylor"):
        assert hg.laplacian(inner, x, method=name).item() == pytest.approx(24)
    with pytest.raises(UnsupportedError, match="cannot be differentiated further"):
        hg.gradient(lambda y: hg.newton_cg_step(lambda z: (z**4).sum(), y).sum(), x)


@pytest.mark.parametrize("name", ["nested_reverse", "forward_over_reverse", "nested_forward", "taylor"])
def test_a_field_may_hold_data_of_its_points(name: str) -> None:
    data = torch.arange(1.0, 6.0, dtype=D)
    points = torch.ones(1, dtype=D).expand(5, 2)
    torch.testing.assert_close(hg.laplacian(lambda p: (p**3).sum(1) * data, points, method=name), 12 * data)


def test_estimates_draw_afresh_unless_seeded() -> None:
    points = torch.ones(3, 2, dtype=D)

    def u(p: Tensor) -> Tensor:
        return p[:, 0] ** 5 * p[:, 1] ** 2

    for estimate in (hutchinson_laplacian, sampled_laplacian, gaussian_bilaplacian):
        torch.manual_seed(3)
        first = torch.stack([estimate(u, points, probes=3).value for _ in range(5)])
        assert len({tuple(row.tolist()) for row in first}) > 1
        torch.manual_seed(3)
        torch.testing.assert_close(first[0], estimate(u, points, probes=3).value)
        same = [estimate(u, points, generator=torch.Generator().manual_seed(1)).value for _ in range(2)]
        torch.testing.assert_close(*same)
        torch.testing.assert_close(estimate(u, points, seed=2).value, estimate(u, points, seed=2).value)
