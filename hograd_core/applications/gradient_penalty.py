"""Penalties on the norm of a critic's input gradient, and their gradient in the critic's parameters.

With g_i = ∇_x D(x_i; θ), per sample over all dimensions but the first:

    WGAN-GP  mean_i (‖g_i‖ − c)²           Gulrajani et al. 2017, eq. 3, x_i = ε_i real_i + (1 − ε_i) fake_i
    WGAN-LP  mean_i max(0, ‖g_i‖ − c)²     Petzka et al. 2018, the same x_i
    R1       mean_i ‖g_i‖² / 2             Mescheder et al. 2018, eq. 9 with γ = 1, x_i = real_i

All three are mean_i φ(g_i), and so ∇_θ = mean_i ∇_θ ⟨∇_x D(x_i; θ), w_i⟩ with w_i = ∇φ(g_i) held fixed: a mixed
second derivative contracted with one direction, which is what the methods compute in different orders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hograd_core._checks import check_number
from hograd_core._entrance import in_transform, kept, released
from hograd_core._forward import jvp
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core._unsupported import UnsupportedError
from hograd_core.applications._calls import plain_call, recording, watched_call
from hograd_core.applications._modules import (
    Parameters,
    called_with,
    check_module,
    check_samplewise,
    detached,
    gradient_of,
    trainable,
)
from hograd_core.applications._penalty_parts import (
    Phi,
    check_samples,
    draw_mixing,
    half_square,
    interpolate,
    one_sided,
    two_sided,
)
from hograd_core.derivatives._autograd import grad_or_zeros, leaf
from hograd_core.hazards import guarded

__all__ = [
    "Penalty", "draw_mixing", "gradient_penalty", "half_square", "interpolate", "lipschitz_penalty", "one_sided",
    "penalty", "r1_penalty", "two_sided",
]  # fmt: skip

Critic = Callable[[Tensor], Tensor]


class Penalty(NamedTuple):
    """A penalty and its gradient, both without weight factor and without graph.

    Attributes:
        value: 0-dimensional.
        gradient: by parameter name; zeros where the penalty does not depend on a parameter.
    """

    value: Tensor
    gradient: Parameters


def _check_critic(critic: Any, x: Tensor) -> tuple[nn.Module, Tensor]:
    return check_samplewise(check_module(critic, "critic"), x, "real", "critic"), x


def scores(critic: Critic, x: Tensor) -> Tensor:
    """One score a sample: the critic's output summed over what it has beyond the batch (patches, a trailing 1).

    Raises:
        TypeError: the critic returned something else than a tensor.
        ValueError: its first dimension is not the batch.
    """
    y = critic(x)
    if not isinstance(y, Tensor):
        raise TypeError(f"critic: returned {type(y).__name__}, expected a tensor of shape (batch, ...)")
    if y.dim() == 0 or y.shape[0] != x.shape[0]:
        raise ValueError(
            f"critic: returned shape {tuple(y.shape)}, expected a first dimension of {x.shape[0]}, the batch"
        )
    return y.flatten(1).sum(1) if y.dim() > 1 else y


def input_gradient(critic: Critic, x: Tensor, *, create_graph: bool) -> Tensor:
    """∇_x D(x_i) per sample, by one reverse sweep of the summed scores.

    A sample's score must not depend on other samples: the sum's gradient would mix them.
    """
    x = leaf(x)
    return grad_or_zeros(scores(critic, x).sum(), x, create_graph=create_graph)


@recording
def penalty(critic: Critic, x: Tensor, phi: Phi) -> Tensor:
    """mean_i φ(∇_x D(x_i)), to be added to a critic's loss: differentiable in whatever the critic closes over.

    Args:
        critic: any callable, (batch, ...) -> (batch, ...).
        x: where to look, shape (batch, ...).
        phi: ``two_sided()``, ``one_sided()``, ``half_square`` or another function (batch, ...) -> (batch,).

    Returns:
        A 0-dimensional tensor, with graph where the caller records one; its backward is the second-order part: about
        two more gradients of the critic in time, and the first gradient's graph in memory until then.
    """
    for name, function in (("critic", critic), ("phi", phi)):
        if not callable(function):
            raise TypeError(f"{name}: got {type(function).__name__}, expected a callable")
    x = check_samples(x, "x")
    with guarded("penalty", ("double_backward", 2)):
        return _penalty(critic, x, phi)


def _penalty(critic: Critic, x: Tensor, phi: Phi) -> Tensor:
    return plain_call(phi)(input_gradient(watched_call(critic), x, create_graph=True)).mean()


@operator(result="value, parameter gradient", default="double_backward", order=2)
def gradient_penalty(
    critic: nn.Module, real: Tensor, fake: Tensor, mixing: Tensor, target: float = 1.0, **how: Unpack[How]
) -> Penalty:
    """WGAN-GP: mean (‖∇_x D(x̃)‖ − target)² at points between real and fake, and its gradient in D's parameters.

    Args:
        critic: (batch, ...) -> (batch, ...), one score a sample; its output beyond the batch is summed.
        real: shape (batch, ...), any rank from 2.
        fake: like ``real``.
        mixing: ε of shape (batch, 1, ..., 1); ``draw_mixing(real)``.
        target: the norm asked for.

    Returns:
        A :class:`Penalty`, without weight factor (the paper's λ = 10 is the caller's). To train with a weight, add
        ``λ * gradient`` to the parameters' ``.grad``, or use :func:`penalty` inside the loss.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: shapes do not pair, the target is negative, or a layer in training mode is random or batch-coupled.
        UnsupportedError: PyTorch has no second derivative of a step of the critic by this method.
    """
    return to_method(
        *_check_critic(critic, interpolate(real, fake, mixing)), two_sided(check_number(target, "target", minimum=0))
    )


@operator(result="value, parameter gradient", default="double_backward", order=2)
def lipschitz_penalty(
    critic: nn.Module, real: Tensor, fake: Tensor, mixing: Tensor, target: float = 1.0, **how: Unpack[How]
) -> Penalty:
    """WGAN-LP: mean max(0, ‖∇_x D(x̃)‖ − target)², one-sided; otherwise as ``gradient_penalty``.

    Args:
        critic: (batch, ...) -> (batch, ...), one score a sample.
        real: shape (batch, ...), any rank from 2.
        fake: like ``real``.
        mixing: ε of shape (batch, 1, ..., 1); ``draw_mixing(real)``.
        target: the norm not to be exceeded.

    Returns:
        A :class:`Penalty`, without weight factor.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: shapes do not pair, the target is negative, or a layer in training mode is random or batch-coupled.
        UnsupportedError: PyTorch has no second derivative of a step of the critic by this method.
    """
    return to_method(
        *_check_critic(critic, interpolate(real, fake, mixing)), one_sided(check_number(target, "target", minimum=0))
    )


@operator(result="value, parameter gradient", default="double_backward", order=2)
def r1_penalty(critic: nn.Module, real: Tensor, **how: Unpack[How]) -> Penalty:
    """R1: mean ‖∇_x D(real)‖² / 2 and its gradient in D's parameters.

    Args:
        critic: (batch, ...) -> (batch, ...), one score a sample.
        real: shape (batch, ...), any rank from 2.

    Returns:
        A :class:`Penalty`, without the factor γ.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: ``real`` has no batch dimension or no element, or a layer is random or batch-coupled.
        UnsupportedError: PyTorch has no second derivative of a step of the critic by this method.
    """
    return to_method(*_check_critic(critic, check_samples(real, "real")), half_square)


def double_backward(critic: nn.Module, x: Tensor, phi: Phi) -> Penalty:
    """Differentiate the gradient: one reverse sweep that records itself, a second through it."""
    parameters = trainable(critic)
    value = _penalty(called_with(critic, parameters), x, phi)
    gradient = gradient_of(value, parameters, create_graph=kept())
    return Penalty(released(value), gradient)


def _directions(critic: Critic, x: Tensor, phi: Phi) -> tuple[Tensor, Tensor]:
    """The penalty, and w_i = ∇φ(g_i) / batch: from first derivatives of the critic alone."""
    _refuse_inside(x)
    g = input_gradient(critic, x, create_graph=False).detach().requires_grad_(True)
    value = plain_call(phi)(g).mean()
    (w,) = torch.autograd.grad(value, g)
    return value.detach(), w


def _refuse_inside(x: Tensor) -> None:
    """Raise where the result would be differentiated further: w is held fixed, and its own derivative left out."""
    if kept() and (in_transform() or x.requires_grad):
        raise UnsupportedError(
            "gradient_penalty",
            "the result of this method cannot be differentiated further; use method='double_backward'",
        )


def reverse_over_forward(critic: nn.Module, x: Tensor, phi: Phi) -> Penalty:
    """∇_θ of the directional derivative of Σ D along w: forward mode over the inputs, one reverse sweep over it.

    No operation needs a second reverse formula; each needs a forward-mode one.
    """
    parameters = trainable(critic)
    call = watched_call(called_with(critic, parameters))
    value, w = _directions(call, x, phi)
    along = jvp(lambda z: scores(call, z).sum(), (x,), (w,))[1]
    return Penalty(value, gradient_of(along, parameters))


def forward_over_reverse(critic: nn.Module, x: Tensor, phi: Phi) -> Penalty:
    """d/ds ∇_θ Σ D(x + s w) at s = 0: the same mixed derivative taken in the other order; no second tape."""
    parameters = trainable(critic)
    value, w = _directions(watched_call(called_with(critic, parameters)), x, phi)
    start = detached(parameters)

    def parameter_gradient(z: Tensor) -> Parameters:
        def total(p: Parameters) -> Tensor:
            return scores(watched_call(called_with(critic, p)), z).sum()

        found: Parameters = torch.func.grad(total)(start)
        return found

    along = jvp(parameter_gradient, (x,), (w,))[1]
    return Penalty(value, {name: g.detach().to(x.dtype) for name, g in along.items()})


def per_sample(critic: nn.Module, x: Tensor, phi: Phi, *, chunk_size: int | None = None) -> Penalty:
    """torch.func throughout: vmap of the input gradient, and reverse mode over it."""
    _refuse_inside(x)
    penalise = plain_call(phi)

    def value_of(p: Parameters) -> Tensor:
        call = watched_call(called_with(critic, p))
        single = torch.func.grad(lambda z: scores(call, z.unsqueeze(0)).sum())
        return penalise(torch.func.vmap(single, chunk_size=chunk_size)(x)).mean()

    gradient, value = torch.func.grad_and_value(value_of)(detached(trainable(critic)))
    return Penalty(value.detach(), {name: g.detach() for name, g in gradient.items()})


def finite_difference(critic: nn.Module, x: Tensor, phi: Phi, *, step: float | None = None) -> Penalty:
    """(∇_θ Σ D(x + h w) − ∇_θ Σ D(x − h w)) / 2h: two plain gradients, no second derivative at all.

    The value is exact; the gradient has an error of O(h²) and of rounding eps/h. Step by default: eps^⅓ relative to
    the size of x over that of w.
    """
    parameters = trainable(critic)
    call = watched_call(called_with(critic, parameters))
    value, w = _directions(call, x, phi)
    if step is None:
        scale = x.abs().max().clamp_min(1) / w.abs().max().clamp_min(torch.finfo(x.dtype).tiny)
        h = torch.finfo(x.dtype).eps ** (1 / 3) * scale
    else:
        h = torch.as_tensor(step, dtype=x.dtype, device=x.device)
    up, down = (gradient_of(scores(call, x + s * h * w).sum(), parameters) for s in (1, -1))
    return Penalty(value, {name: (up[name] - down[name]) / (2 * h) for name in parameters})


_EXACT: tuple[tuple[Callable[..., Penalty], str, str, bool, str], ...] = (
    (
        double_backward,
        "reverse over reverse",
        "Gulrajani et al. 2017, algorithm 1; torch.autograd.grad(create_graph=True)",
        False,
        "double_backward",
    ),
    (
        reverse_over_forward,
        "reverse over forward",
        "Griewank & Walther 2008, §5.1; torch.func.jvp under torch.autograd.grad",
        True,
        "grad_of_jvp",
    ),
    (
        forward_over_reverse,
        "forward over reverse",
        "Pearlmutter 1994, §3, for a mixed derivative; torch.func.jvp of torch.func.grad",
        True,
        "jvp_of_grad",
    ),
    (
        per_sample,
        "reverse over vectorised reverse",
        "torch.func.vmap(torch.func.grad) under torch.func.grad",
        True,
        "vjp_of_grad",
    ),
)
for _operator in (gradient_penalty, lipschitz_penalty, r1_penalty):
    for _kernel, _mode, _source, _functorch, _amount in _EXACT:
        method(
            _operator, _kernel.__name__, mode=_mode, source=_source, functorch=_functorch, amounts_to=((_amount, 2),)
        )(_kernel)  # fmt: skip
    method(
        _operator,
        "finite_difference",
        mode="central difference of reverse",
        source="Nocedal & Wright 2006, eq. 8.20, for a mixed derivative",
        exact=False,
        amounts_to=(("finite_difference", 2),),
        # Truncation and rounding balance at eps^(2/3); the factor covers third derivatives of ordinary size.
        tolerance=lambda eps, order: min(0.25, 1e3 * eps ** (2 / 3)),
    )(finite_difference)
