"""Solves with the damped Fisher matrix and natural-gradient steps."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import filled, normal
from torch import Tensor, nn

import hograd_core as hg
from hograd_core.curvature import kfac

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

EXACT = [name for name, method in hg.natural_gradient_step.methods.items() if method.exact]


def problem() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    module = filled(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return module, nn.CrossEntropyLoss(), normal(6, 4, seed=1), torch.arange(6) % 3


def flat_gradient(module: nn.Module, loss: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    gradients = torch.autograd.grad(loss(module(inputs), targets), list(module.parameters()))
    return torch.cat([g.reshape(-1) for g in gradients])


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("damping", [1e-4, 1e-2, 10.0])
def test_exact_methods_solve_the_damped_system(method: str, damping: float) -> None:
    arguments = problem()
    fisher = hg.fisher_matrix(*arguments)
    damped, v = fisher + damping * torch.eye(len(fisher), dtype=fisher.dtype), normal(len(fisher), seed=5)
    found = hg.inverse_fisher_vector_product(*arguments, v, damping, method=method)
    torch.testing.assert_close(found, torch.linalg.solve(damped, v), rtol=1e-8, atol=1e-8 / damping)
    step = hg.natural_gradient_step(*arguments, damping, method=method)
    torch.testing.assert_close(step, -torch.linalg.solve(damped, flat_gradient(*arguments)), rtol=1e-7, atol=1e-8)


def test_approximate_methods_are_solves_with_their_approximation() -> None:
    arguments = problem()
    gradient = flat_gradient(*arguments)
    diagonal = hg.fisher_diagonal(*arguments)
    found = hg.natural_gradient_step(*arguments, 0.1, method="diagonal")
    torch.testing.assert_close(found, -gradient / (diagonal + 0.1))
    factors = kfac(*arguments)
    for form in ("exact", "factored"):
        found = hg.natural_gradient_step(*arguments, 0.1, method="kfac", form=form)
        torch.testing.assert_close(found, -factors.inverse(0.1, form).matvec(gradient))


def test_the_step_is_that_of_newton_for_a_linear_model() -> None:
    module, inputs, targets = filled(nn.Linear(4, 2)), normal(9, 4, seed=1), normal(9, 2, seed=2)
    step = hg.natural_gradient_step(module, nn.MSELoss(), inputs, targets, 1e-9)
    f, x = hg.from_module(module, nn.MSELoss(), (inputs, targets))
    torch.testing.assert_close(step, hg.newton_cg_step(f, x, method="dense"), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(torch.func.grad(f)(x + step), torch.zeros(10, dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", [*EXACT, "kfac"])
def test_the_direction_does_not_depend_on_the_parametrisation(method: str) -> None:
    """Scaling the inputs by c and the weights by 1/c is the same model: the outputs must move the same way."""
    inputs, targets = normal(9, 4, seed=1), torch.arange(9) % 3
    moves = []
    for scale in (1.0, 10.0):
        module = filled(nn.Linear(4, 3, bias=False))
        with torch.no_grad():
            module[0].weight /= scale
        step = hg.natural_gradient_step(module, F.cross_entropy, scale * inputs, targets, 1e-10, method=method)
        moves.append(scale * inputs @ step.reshape(3, 4).T)
    # A shift of all logits is in the Fisher matrix's null space.
    centred = [m - m.mean(1, keepdim=True) for m in moves]
    torch.testing.assert_close(centred[0], centred[1], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", list(hg.natural_gradient_step.methods))
def test_natural_gradient_descent_converges(method: str) -> None:
    targets = torch.arange(90) % 3
    inputs = normal(90, 4, seed=3) + 1.2 * normal(3, 4, seed=4)[targets]
    module = filled(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    step = functools.partial(hg.natural_gradient_step, module, F.cross_entropy, inputs, targets, 0.05, method=method)
    losses = []
    for _ in range(12):
        losses.append(float(F.cross_entropy(module(inputs), targets).detach()))
        with torch.no_grad():
            nn.utils.vector_to_parameters(
                nn.utils.parameters_to_vector(module.parameters()) + 0.5 * step(), module.parameters()
            )
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-1] < 0.6


def test_too_little_damping_is_named() -> None:
    module = filled(nn.Linear(4, 3)).float()
    inputs = 1e6 * normal(2, 4, seed=1).float().repeat(3, 1)  # two samples, thrice: singular however it is written
    for method in ("dense", "woodbury"):
        with pytest.raises(ValueError, match="damping: got 1e-08, too small for a Fisher matrix"):
            hg.natural_gradient_step(module, nn.MSELoss(), inputs, torch.zeros(6, 3), 1e-8, method=method)


@pytest.mark.parametrize(
    ("damping", "error"), [(0.0, ValueError), (-1.0, ValueError), (float("nan"), ValueError), ("1", TypeError)]
)
def test_damping_must_be_positive(damping: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="damping: got"):
        hg.natural_gradient_step(*problem(), damping)


@pytest.mark.parametrize("method", ["cg", "dense", "woodbury", "kfac"])
def test_a_matrix_that_is_not_finite_is_not_blamed_on_the_damping(method: str) -> None:
    inputs, targets = torch.full((5, 4), float("nan")), torch.zeros(5, dtype=torch.long)
    with pytest.raises(FloatingPointError, match="finite"):
        hg.natural_gradient_step(torch.nn.Linear(4, 3), torch.nn.CrossEntropyLoss(), inputs, targets, method=method)
