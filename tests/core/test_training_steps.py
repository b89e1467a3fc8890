"""Training steps: what each one is, against its parts written out; leaks; errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import left_by, mostly_slow
from hograd_bench import problems
from torch import Tensor, nn

import hograd_core as hg
from hograd_core.applications.gradient_penalty import interpolate
from hograd_core.applications.pinn import residual
from hograd_core.training.steps import PENALTY_WEIGHT, PLAIN, flat

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

STEPS = {
    "critic_training_step": "critic_loss",
    "pinn_training_step": "burgers_loss",
    "meta_training_step": "meta_loss",
    "newton_training_step": "newton_softmax",
    "natural_training_step": "digits_loss",
}
PARTS = {
    "critic_training_step": "gradient_penalty",
    "pinn_training_step": "residual_loss",
    "meta_training_step": "meta_gradient",
    "newton_training_step": "newton_cg_step",
    "natural_training_step": "natural_gradient_step",
}
ALL = [(step, method) for step in STEPS for method in hg.operators()[step].methods]


def arguments(step: str, dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
    problem = problems.get(STEPS[step])
    sizes = {"depth": 2 if "depth" in problem.sizes else 1, "batch": 3}
    instance = problem.instance(problems.Spec(3, **sizes), dtype)
    known = {"f": instance.f, "x": instance.x, **instance.extras}
    return tuple(known[name] for name in hg.operators()[step].inputs)


def gradient_of(value: Callable[[dict[str, Tensor]], Tensor], module: nn.Module) -> Tensor:
    """∇ of a function of a module's parameters, flat, by torch.func."""
    start = {name: p.detach() for name, p in module.named_parameters()}
    return flat(torch.func.grad(value)(start))


def test_every_step_has_the_methods_of_its_part_and_a_plain_one() -> None:
    for step, part in PARTS.items():
        methods = hg.operators()[step].methods
        assert set(methods) == {PLAIN, *hg.operators()[part].methods}
        for name, own in hg.operators()[part].methods.items():
            assert (methods[name].exact, methods[name].tolerance) == (own.exact, own.tolerance)


@pytest.mark.parametrize("step", STEPS)
def test_plain_is_steepest_descent(step: str) -> None:
    f, x, *rest = arguments(step)
    torch.testing.assert_close(hg.operators()[step](f, x, *rest, method=PLAIN), -torch.func.grad(f)(x))


@pytest.mark.parametrize("weight", [PENALTY_WEIGHT, 0.5])
def test_the_critic_step_is_gulrajanis(weight: float) -> None:
    f, x, critic, real, fake, mixing = arguments("critic_training_step")
    between = (mixing * real + (1 - mixing) * fake).requires_grad_(True)

    def penalty(parameters: dict[str, Tensor]) -> Tensor:
        def score(point: Tensor) -> Tensor:
            return torch.func.functional_call(critic, parameters, (point.unsqueeze(0),)).sum()

        norms = torch.func.vmap(torch.func.grad(score))(between).flatten(1).norm(dim=1)
        return ((norms - 1) ** 2).mean()

    expected = -(torch.func.grad(f)(x) + weight * gradient_of(penalty, critic))
    torch.testing.assert_close(hg.critic_training_step(f, x, critic, real, fake, mixing, weight), expected)


def test_the_pinn_step_descends_data_and_residual() -> None:
    f, x, u, points, equation = arguments("pinn_training_step")
    value = residual(u, points, equation).square().mean()
    expected = -(torch.func.grad(f)(x) + 2 * flat(dict(enumerate(torch.autograd.grad(value, list(u.parameters()))))))
    torch.testing.assert_close(hg.pinn_training_step(f, x, u, points, equation, 2.0), expected)


def test_newton_and_natural_steps_solve_their_systems() -> None:
    f, x, damping = arguments("newton_training_step")
    hessian = torch.autograd.functional.hessian(f, x)
    torch.testing.assert_close(hessian @ hg.newton_training_step(f, x, damping), -torch.func.grad(f)(x))
    f, x, *model = arguments("natural_training_step")
    fisher = hg.fisher_matrix(*model) + 1e-3 * torch.eye(len(x), dtype=x.dtype)
    step = hg.natural_training_step(f, x, *model, method="dense")
    torch.testing.assert_close(fisher @ step, -torch.func.grad(f)(x))


def test_maml_without_inner_steps_is_the_plain_step() -> None:
    f, x, model, loss, support, query, _, rate = arguments("meta_training_step")
    plain = hg.meta_training_step(f, x, model, loss, support, query, 0, rate, method=PLAIN)
    for name in ("unrolled", "recomputed", "first_order"):
        found = hg.meta_training_step(f, x, model, loss, support, query, 0, rate, method=name)
        torch.testing.assert_close(found, plain)


@pytest.mark.slow
def test_a_critic_trained_by_its_steps_comes_to_unit_slope() -> None:
    """300 WGAN-GP steps separate two clouds and keep the input gradient's norm near 1; plain steps let it run away."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    real, fake = torch.randn(64, 2).double() * 0.3 + 1, torch.randn(64, 2).double() * 0.3 - 1
    mixing = torch.rand(64, 1).double()
    signs = torch.cat([-torch.ones(64, 1), torch.ones(64, 1)]).double()

    def wasserstein(scores: Tensor, weight: Tensor) -> Tensor:
        return (weight * scores).sum() / 64

    def slope_after(method: str) -> float:
        model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double()
        model.load_state_dict(critic.state_dict())
        for _ in range(300):
            f, x = hg.from_module(model, wasserstein, (torch.cat([real, fake]), signs))
            step = hg.critic_training_step(f, x, model, real, fake, mixing, method=method)
            nn.utils.vector_to_parameters(x + 0.02 * step, model.parameters())
            for p in model.parameters():
                p.requires_grad_(True)
        points = interpolate(real, fake, mixing).requires_grad_(True)
        (g,) = torch.autograd.grad(model(points).sum(), points)
        return float(g.norm(dim=1).mean())

    assert slope_after("double_backward") == pytest.approx(1, abs=0.15)
    assert slope_after(PLAIN) > 2


@pytest.mark.slow
@pytest.mark.parametrize(("step", "method"), mostly_slow(ALL, 25))
def test_nothing_is_kept_over_many_steps(step: str, method: str) -> None:
    given = arguments(step, torch.float32)
    run = hg.operators()[step]
    assert left_by(lambda: run(*given, method=method), 100 if method == PLAIN else 10) <= 0


def test_errors_name_the_argument() -> None:
    f, x, critic, *rest = arguments("critic_training_step")
    with pytest.raises(ValueError, match=r"x: got 2 elements, expected the \d+ trainable parameters of critic"):
        hg.critic_training_step(f, x[:2], critic, *rest)
    with pytest.raises(TypeError, match="critic: got builtin_function_or_method"):
        hg.critic_training_step(f, x, torch.sin, *rest)
    with pytest.raises(TypeError, match="f: got int"):
        hg.newton_training_step(3, x, 0.0)
    with pytest.raises(ValueError, match="damping"):
        hg.newton_training_step(f, x, -1.0)
    module = nn.Linear(2, 2)
    f, x = hg.from_module(module, F.cross_entropy, (torch.ones(3, 2), torch.tensor([0, 1, 0])))
    with pytest.raises(ValueError, match="x: got 5 elements, expected the 6 trainable parameters of module"):
        hg.natural_training_step(f, x[:5], module, F.cross_entropy, torch.ones(3, 2), torch.tensor([0, 1, 0]))
