"""Gradient penalties: closed forms, finite differences, edges, leaks, and a WGAN-GP critic that converges."""

from __future__ import annotations

import pytest
import torch
from core_fakes import left_by, mostly_slow, normal
from torch import Tensor, nn

from hograd_core.applications import _penalty_truth as truths
from hograd_core.applications._penalty_parts import norms
from hograd_core.applications.gradient_penalty import (
    draw_mixing,
    gradient_penalty,
    half_square,
    interpolate,
    lipschitz_penalty,
    one_sided,
    penalty,
    r1_penalty,
    two_sided,
)
from hograd_core.reference import reference, relative_error, tolerance

METHODS = list(gradient_penalty.methods)
EXACT = [name for name, m in gradient_penalty.methods.items() if m.exact]


class Quadratic(nn.Module):
    """D(x) = xᵀAx/2 + bᵀx: ∇D = Sx + b with S = (A + Aᵀ)/2."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.a = nn.Parameter(normal(n, n, seed=1))
        self.b = nn.Parameter(normal(n, seed=2))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return 0.5 * (x * (x @ self.a)).sum(1) + x @ self.b


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv_critic() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten())
    critic = nn.Sequential(*layers, nn.Linear(8, 1)).double()
    with torch.no_grad():
        critic[-1].weight.mul_(5)
    return critic


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(5, 3), (4, 2, 3), (3, 2, 2, 2)])
def test_closed_form_of_a_quadratic_critic(name: str, shape: tuple[int, ...]) -> None:
    n = int(torch.tensor(shape[1:]).prod())
    critic = Quadratic(n)
    real, fake, mixing = normal(*shape, seed=3), normal(*shape, seed=4), uniform(shape[0], *(1,) * (len(shape) - 1))
    x = (mixing * real + (1 - mixing) * fake).flatten(1)
    a, b = critic.a.detach(), critic.b.detach()
    g = x @ (a + a.T) / 2 + b
    norm = g.norm(dim=1)
    w = 2 * ((norm - 1) / norm)[:, None] * g / shape[0]
    outer = w.T @ x
    found = gradient_penalty(critic, real, fake, mixing, method=name)
    rtol = 1e-6 if name == "finite_difference" else 1e-12
    torch.testing.assert_close(found.value, ((norm - 1) ** 2).mean())
    torch.testing.assert_close(found.gradient["a"], (outer + outer.T) / 2, rtol=rtol, atol=rtol)
    torch.testing.assert_close(found.gradient["b"], w.sum(0), rtol=rtol, atol=rtol)
    assert not found.value.requires_grad
    assert not found.gradient["a"].requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_linear_critic(name: str) -> None:
    # D(x) = w·x: the penalty is (‖w‖ − 1)² at every x and its gradient 2 (‖w‖ − 1) w/‖w‖.
    critic = nn.Linear(4, 1).double()
    w = critic.weight.detach()[0]
    x = normal(6, 4)
    found = gradient_penalty(critic, x, x + 1, uniform(6, 1), method=name)
    torch.testing.assert_close(found.value, (w.norm() - 1) ** 2)
    rtol = 1e-6 if name == "finite_difference" else 1e-12
    expected = 2 * (w.norm() - 1) * w / w.norm()
    torch.testing.assert_close(found.gradient["weight"][0], expected, rtol=rtol, atol=rtol)
    torch.testing.assert_close(found.gradient["bias"], torch.zeros(1, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize("operator", [gradient_penalty, lipschitz_penalty, r1_penalty])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_convolutional_critic_against_truth(operator, name: str, dtype: torch.dtype) -> None:
    critic = conv_critic()
    real, fake, mixing = normal(3, 2, 4, 4, seed=1), normal(3, 2, 4, 4, seed=2), uniform(3, 1, 1, 1)
    arguments = (real,) if operator is r1_penalty else (real, fake, mixing)
    # A low target keeps the one-sided penalty active.
    keywords = {} if operator is r1_penalty else {"target": 0.1}
    rounded = [a.to(dtype).double() for a in arguments]
    critic.to(dtype).double()
    if keywords:
        expected = truths._mean(
            critic, rounded[2] * rounded[0] + (1 - rounded[2]) * rounded[1],
            "two-sided" if operator is gradient_penalty else "one-sided", 0.1,
        )  # fmt: skip
    else:
        expected = reference(operator.name, critic, *rounded)
    found = operator(critic.to(dtype), *(a.to(dtype) for a in rounded), method=name, **keywords)
    assert found.value > 0
    assert relative_error(found, expected) <= tolerance(operator.method(name), dtype, 2)


@pytest.mark.parametrize("kind", ["gradient", "lipschitz", "r1"])
def test_truth_against_finite_differences_in_the_parameters(kind: str) -> None:
    critic = conv_critic()
    real, fake, mixing = normal(3, 2, 4, 4, seed=1), normal(3, 2, 4, 4, seed=2), uniform(3, 1, 1, 1)
    phi = {"gradient": two_sided(0.05), "lipschitz": one_sided(0.05), "r1": half_square}[kind]
    x = real if kind == "r1" else interpolate(real, fake, mixing)
    expected = truths._mean(critic, x, {"gradient": "two-sided", "lipschitz": "one-sided", "r1": "r1"}[kind], 0.05)
    for parameter, gradient in zip(critic.parameters(), expected.gradient.values(), strict=True):
        flat = parameter.data.view(-1)
        index = flat.numel() // 2
        values = []
        for step in (1e-5, -2e-5):
            flat[index] += step
            values.append(penalty(critic, x, phi).item())
        flat[index] += 1e-5
        assert gradient.view(-1)[index].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-8)


def test_one_sided_is_zero_inside_and_two_sided_is_not() -> None:
    critic = nn.Linear(3, 1).double()
    with torch.no_grad():
        critic.weight.mul_(0.5 / critic.weight.norm())
    arguments = (critic, normal(4, 3), normal(4, 3, seed=1), uniform(4, 1))
    inside = lipschitz_penalty(*arguments)
    assert inside.value == 0
    assert all(bool((g == 0).all()) for g in inside.gradient.values())
    assert gradient_penalty(*arguments).value.item() == pytest.approx(0.25)


@pytest.mark.parametrize("name", METHODS)
def test_a_zero_gradient_gives_no_nan(name: str) -> None:
    critic = nn.Linear(3, 1).double()
    with torch.no_grad():
        critic.weight.zero_()
    found = gradient_penalty(critic, normal(4, 3), normal(4, 3, seed=1), uniform(4, 1), method=name)
    assert found.value == 1
    assert all(bool((g == 0).all()) for g in found.gradient.values())


def test_norms_are_per_sample_over_all_other_dimensions() -> None:
    g = normal(3, 2, 4, 5)
    torch.testing.assert_close(norms(g), torch.stack([s.norm() for s in g]))


def test_patch_scores_are_summed_per_sample() -> None:
    torch.manual_seed(0)
    patches = nn.Conv2d(1, 1, 3).double()
    x, y, mixing = normal(2, 1, 5, 5), normal(2, 1, 5, 5, seed=1), uniform(2, 1, 1, 1)
    expected = reference("gradient_penalty", patches, x, y, mixing)
    for name in EXACT:
        assert relative_error(gradient_penalty(patches, x, y, mixing, method=name), expected) < 1e-12


def test_penalty_joins_a_training_loss() -> None:
    critic = conv_critic()
    x = normal(3, 2, 4, 4)
    loss = critic(x).mean() + 10 * penalty(critic, x, two_sided())
    loss.backward()
    plain = torch.autograd.grad(critic(x).mean(), list(critic.parameters()))
    alone = gradient_penalty(critic, x, x, torch.ones(3, 1, 1, 1, dtype=torch.float64)).gradient
    for (name, p), g in zip(critic.named_parameters(), plain, strict=True):
        torch.testing.assert_close(p.grad, g + 10 * alone[name])


@pytest.mark.parametrize("name", METHODS)
def test_grad_mode_buffers_and_grads_are_left_alone(name: str) -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4).eval(), nn.Tanh(), nn.Linear(4, 1)).double()
    frozen = critic[0].bias
    frozen.requires_grad_(False)
    before = {k: v.clone() for k, v in critic.state_dict().items()}
    with torch.no_grad():
        found = gradient_penalty(critic, normal(4, 3), normal(4, 3, seed=1), uniform(4, 1), method=name)
    assert "0.bias" not in found.gradient
    assert all(p.grad is None for p in critic.parameters())
    assert all(torch.equal(v, before[k]) for k, v in critic.state_dict().items())


def test_no_second_reverse_formula_is_needed_by_the_jvp_method() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x.sin()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return g * ctx.saved_tensors[0].cos()

        @staticmethod
        def jvp(ctx, t):
            return t * ctx.saved_tensors[0].cos()

    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            # The parameters come after the operation that cannot be differentiated twice backwards.
            return self.inner(Once.apply(x)).square().sum(1)

    torch.manual_seed(0)
    critic = Critic()
    x = normal(4, 3)
    with pytest.raises(RuntimeError, match=r"once_differentiable"):
        r1_penalty(critic, x)
    found = r1_penalty(critic, x, method="reverse_over_forward")
    assert all(bool(g.isfinite().all()) for g in found.gradient.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(METHODS))
def test_nothing_is_kept_after_a_hundred_steps(name: str) -> None:
    critic = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    arguments = (critic, normal(4, 3).float(), normal(4, 3, seed=1).float(), uniform(4, 1).float())
    assert left_by(lambda: gradient_penalty(*arguments, method=name)) <= 0


def test_errors_name_the_argument() -> None:
    critic = nn.Linear(3, 1).double()
    x, e = normal(4, 3), uniform(4, 1)
    with pytest.raises(TypeError, match="critic: got function"):
        gradient_penalty(lambda x: x, x, x, e)
    with pytest.raises(ValueError, match="fake: got shape"):
        gradient_penalty(critic, x, x[:2], e)
    with pytest.raises(ValueError, match="mixing: got"):
        gradient_penalty(critic, x, x, e[:, 0])
    with pytest.raises(TypeError, match="fake: got dtype"):
        gradient_penalty(critic, x, x.float(), e)
    with pytest.raises(TypeError, match="real: got dtype"):
        r1_penalty(critic, x.long())
    with pytest.raises(ValueError, match=r"real: got shape \(3,\)"):
        r1_penalty(critic, x[0])
    with pytest.raises(ValueError, match="critic: returned shape"):
        r1_penalty(nn.Sequential(critic, nn.Flatten(0), nn.Unflatten(0, (2, 2))), x)
    with pytest.raises(ValueError, match="unfreeze"):
        r1_penalty(nn.Linear(3, 1).double().requires_grad_(False), x)


@pytest.mark.slow
def test_a_wgan_gp_critic_converges() -> None:
    """Between two points at distance 2 the optimal critic is linear with slope 1: it estimates W₁ = 2."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    critic = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3, betas=(0.5, 0.9))
    shift = torch.tensor([1.2, 1.6])
    for step in range(300):
        fake = torch.randn(64, 2, generator=generator) * 0.05
        real = torch.randn(64, 2, generator=generator) * 0.05 + shift
        x = interpolate(real, fake, draw_mixing(real, generator))
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / 300)
        optimiser.zero_grad()
        loss = critic(fake).mean() - critic(real).mean() + 10 * penalty(critic, x, two_sided())
        loss.backward()
        optimiser.step()
    fake = torch.randn(500, 2, generator=generator) * 0.05
    real = torch.randn(500, 2, generator=generator) * 0.05 + shift
    distance = (critic(real).mean() - critic(fake).mean()).item()
    # The penalty's optimum overshoots slope 1 by 1/(2 * 10) of the distance's gradient: 2 * 1.05.
    assert distance == pytest.approx(2.1, abs=0.15)
    held = penalty(critic, interpolate(real, fake, draw_mixing(real, generator)), two_sided())
    assert held.item() < 0.02


@pytest.mark.parametrize("name", METHODS)
def test_a_gradient_that_is_not_a_number_stays_one(name: str) -> None:
    found = gradient_penalty(Quadratic(3), normal(2, 3) * float("nan"), normal(2, 3), uniform(2, 1), method=name)
    assert bool(found.value.isnan())
    assert all(bool(g.isnan().any()) for g in found.gradient.values())


@pytest.mark.parametrize("entry", [1e-5, 300.0])
def test_norms_do_not_leave_the_range_of_half_precision_before_their_value_does(entry: float) -> None:
    g = torch.full((1, 4), entry, dtype=torch.float16)
    torch.testing.assert_close(norms(g), 2 * g[:, 0], rtol=0.02, atol=0)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(4), nn.RReLU()], ids=lambda m: type(m).__name__)
def test_layers_that_are_random_or_couple_samples_are_refused(layer: nn.Module) -> None:
    # By each method they gave another number, and none said so.
    critic = nn.Sequential(nn.Linear(3, 4), layer.train(), nn.Linear(4, 1)).double()
    for name in METHODS:
        with pytest.raises(ValueError, match="critic: 1 is"):
            r1_penalty(critic, normal(4, 3), method=name)
    r1_penalty(critic.eval(), normal(4, 3))


def test_targets_and_dtypes_are_checked() -> None:
    arguments = (nn.Linear(3, 1), normal(4, 3).float(), normal(4, 3, seed=1).float(), uniform(4, 1).float())
    for target, error in (("1", TypeError), (True, TypeError), (float("nan"), ValueError), (-1.0, ValueError)):
        with pytest.raises(error, match="target: got"):
            gradient_penalty(*arguments, target)
    with pytest.raises(TypeError, match=r"real: got dtype torch.float64, expected torch.float32"):
        r1_penalty(nn.Linear(3, 1), normal(4, 3))


@pytest.mark.parametrize("name", METHODS)
def test_shared_weights_a_batch_of_one_and_a_view(name: str) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).tanh()).tanh().sum(1)

    torch.manual_seed(0)
    critic, x = Tied().double(), normal(3, 1).T
    point = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(critic(point).sum(), point, create_graph=True)
    expected = torch.autograd.grad((g.square().sum() / 2), list(critic.parameters()), allow_unused=True)
    found = r1_penalty(critic, x, method=name)
    bound = 1e-12 if name in EXACT else 1e-6
    for (key, p), e in zip(critic.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found.gradient[key], torch.zeros_like(p) if e is None else e, rtol=bound, atol=bound)
