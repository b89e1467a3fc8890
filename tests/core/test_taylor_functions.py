"""What a function may do under Taylor mode: change tensors in place, detach, branch, take gradients itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import hograd_core
from hograd_core.taylor import MissingRuleError, derivatives_along


def test_a_derivative_inside_f_is_differentiated_too() -> None:
    # f contains a Taylor derivative of its own: d/dt of (d²/ds² sin(x + s))(x + t) is −cos x.
    x = torch.tensor(0.7, dtype=torch.float64)
    one = torch.ones_like(x)
    outer = derivatives_along(lambda y: derivatives_along(torch.sin, y, one, 2)[2], x, one, 3)
    assert [c.item() for c in outer] == pytest.approx([-math.sin(0.7), -math.cos(0.7), math.sin(0.7), math.cos(0.7)])


def test_an_outer_series_is_a_constant_to_an_inner_one() -> None:
    # g(x) = x d/ds (x s) at s = 1, where the x inside is the outer one: g = x², not perturbation-confused.
    x = torch.tensor(3.0, dtype=torch.float64)
    one = torch.ones_like(x)
    found = derivatives_along(lambda y: y * derivatives_along(lambda s: y * s, one, one, 1)[1], x, one, 2)
    assert [c.item() for c in found] == [9.0, 6.0, 2.0]


def test_constants_and_detached_parts_have_no_derivative() -> None:
    x = torch.tensor(0.5, dtype=torch.float64)
    one = torch.ones_like(x)
    assert [c.item() for c in derivatives_along(lambda x: one * 4, x, one, 2)] == [4, 0, 0]
    assert [c.item() for c in derivatives_along(lambda x: x.detach() * x, x, one, 2)] == [0.25, 0.5, 0]


def test_in_place_operations() -> None:
    x = torch.tensor([0.5, -0.2], dtype=torch.float64)

    def ours(x: Tensor) -> Tensor:
        y = x.sin()
        y += x
        y.mul_(y).tanh_()
        return y.sum()

    def pure(x: Tensor) -> Tensor:
        return ((x.sin() + x) ** 2).tanh().sum()

    for a, b in zip(*(derivatives_along(f, x, x.cos(), 4) for f in (ours, pure)), strict=True):
        torch.testing.assert_close(a, b)

    def through_a_view(x: Tensor) -> Tensor:
        y = x.sin()
        y[0].mul_(2)
        return y.sum()

    with pytest.raises(MissingRuleError, match="out of place"):
        derivatives_along(through_a_view, x, x, 2)


def test_shapes_follow_operations_that_change_them_in_place() -> None:
    w = torch.ones(3, 4, dtype=torch.float64)
    seen = []

    def f(x: Tensor) -> Tensor:
        y = x @ w  # PyTorch squeezes the product in place
        seen.append((y.shape, y.stride()))
        z = (x[:, None] * w).t_()
        seen.append((z.shape, z.stride()))
        return (y.sin() @ z).sum()

    x = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    found = derivatives_along(f, x, x.cos(), 3)
    assert seen == [((4,), (1,)), ((4, 3), (1, 4))]

    def plain(x: Tensor) -> Tensor:
        return ((x @ w).sin() @ (x[:, None] * w).T).sum()

    for a, b in zip(found, derivatives_along(plain, x, x.cos(), 3), strict=True):
        torch.testing.assert_close(a, b)
    exact = hograd_core.directional_derivative(plain, x, x.cos(), 3, method="nested_grad")
    torch.testing.assert_close(found[3], exact)


def test_gradients_taken_inside_f_are_differentiated_too() -> None:
    w = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, v = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def penalised(x: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x.requires_grad_(True) if x.is_leaf else x
            (g,) = torch.autograd.grad(torch.tanh(z @ w).exp().sum(), z, create_graph=True)
        return (g * g).sum()

    for order in (1, 2, 3):
        ours = hograd_core.directional_derivative(penalised, x, v, order, method="taylor")
        torch.testing.assert_close(ours, hograd_core.directional_derivative(penalised, x, v, order))


def test_a_detach_is_a_constant_in_every_spelling() -> None:
    x = torch.tensor([0.5, 2.0], dtype=torch.float64)
    for detach in (Tensor.detach, torch.detach, lambda x: x.data):
        found = derivatives_along(lambda x, detach=detach: (detach(x) * x).sum(), x, x, 2)
        assert [c.item() for c in found] == [4.25, 4.25, 0.0]


def test_control_flow_follows_the_value() -> None:
    def f(x: Tensor) -> Tensor:
        return x**3 if x > 0 else -x

    one = torch.ones((), dtype=torch.float64)
    assert derivatives_along(f, one, one, 3)[3] == 6
    assert derivatives_along(f, -one, one, 3)[1] == -1


def test_custom_functions_are_followed_by_their_forward() -> None:
    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor, w: Tensor) -> Tensor:
            return (x * w).sin()

        @staticmethod
        def setup_context(ctx, inputs, output) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor]:
            x, w = ctx.saved_tensors
            return g * w * (x * w).cos(), g * x * (x * w).cos()

    x = torch.tensor([0.3, 1.1], dtype=torch.float64)
    w = torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True)
    for order in (1, 2, 3):
        ours = hograd_core.derivative_vector_product(
            lambda x: Sine.apply(x, w).sum(), x, x, order, method="reverse_over_taylor"
        )
        torch.testing.assert_close(
            ours, hograd_core.derivative_vector_product(lambda x: (x * w).sin().sum(), x, x, order)
        )
    second = derivatives_along(lambda x: Sine.apply(x, w).sum(), x, x, 2)[2]
    (g,) = torch.autograd.grad(second, w)
    # d/dw of −w² x² sin(w x).
    torch.testing.assert_close(g, (-2 * w * x**2 * (w * x).sin() - w**2 * x**3 * (w * x).cos()).detach())
