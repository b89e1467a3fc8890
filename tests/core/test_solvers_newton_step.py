"""One Newton step: by conjugate gradients on every product, and by the dense solve."""

from __future__ import annotations

import pytest
import torch
from core_fakes import convex, normal
from torch import Tensor

import hograd_core as hg
from hograd_core.solvers import newton_cg

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


# --- the step -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(hg.newton_cg_step.methods))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_worked_quadratic_lands_on_zero(method: str, dtype: torch.dtype) -> None:
    """S8: A = [[4, 1], [1, 3]] at (1, 1)."""
    a = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=dtype)
    x = torch.ones(2, dtype=dtype)
    landed = x + hg.newton_cg_step(lambda x: 0.5 * x @ (a @ x), x, method=method)
    bound = 50 * (torch.finfo(dtype).eps if method != "finite_difference" else torch.finfo(dtype).eps ** 0.6)
    assert landed.dtype == dtype
    assert landed.abs().max() < bound


@pytest.mark.parametrize("method", list(hg.newton_cg_step.methods))
@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_every_method_solves_the_damped_system(method: str, damping: float) -> None:
    x = normal(2, 4, seed=1)
    hessian = torch.autograd.functional.hessian(convex, x).reshape(8, 8) + damping * torch.eye(8, dtype=x.dtype)
    expected = -torch.linalg.solve(hessian, torch.func.grad(convex)(x).reshape(8)).reshape(2, 4)
    found = hg.newton_cg_step(convex, x, damping, method=method)
    tolerance = 1e-5 if method == "finite_difference" else 1e-8
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_dense_takes_the_pseudo_inverse_of_a_singular_hessian() -> None:
    def valley(x: Tensor) -> Tensor:
        return (x[0] + x[1] - 1) ** 2

    step = hg.newton_cg_step(valley, torch.zeros(3, dtype=torch.float64), method="dense")
    torch.testing.assert_close(step, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    torch.testing.assert_close(hg.newton_cg_step(valley, torch.zeros(3, dtype=torch.float64)), step)


def test_conjugate_gradients_descend_where_the_dense_solve_climbs() -> None:
    def saddle(x: Tensor) -> Tensor:
        return x[0] ** 2 - x[1] ** 2

    x = torch.tensor([0.1, 1.0], dtype=torch.float64)
    gradient = torch.func.grad(saddle)(x)
    dense, truncated = (hg.newton_cg_step(saddle, x, method=m) for m in ("dense", "linearised"))
    torch.testing.assert_close(x + dense, torch.zeros(2, dtype=torch.float64))
    assert gradient @ dense > 0
    assert gradient @ truncated < 0
    assert saddle(x + truncated) < saddle(x)


def test_the_report_of_a_step() -> None:
    x = normal(8, seed=1)
    result = newton_cg(convex, x, relative_tolerance=1e-4, hvp_method="jvp_of_grad")
    assert result.converged
    assert 1 <= result.iterations == result.products <= 8
    assert result.residuals[-1] <= 1e-4 * result.residuals[0]
    short = newton_cg(convex, x, radius=0.05)
    assert short.status == "boundary"
    assert float(short.step.norm()) == pytest.approx(0.05)


def test_the_dense_step_names_what_is_not_finite() -> None:
    x = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(FloatingPointError, match="f: its Hessian at x"):
        hg.newton_cg_step(lambda x: (x.abs() ** 1.5).sum(), x, method="dense")
    with pytest.raises(FloatingPointError, match="f: its gradient at x"):
        hg.newton_cg_step(lambda x: x @ x + (x * float("inf")).sum(), x, method="dense")
