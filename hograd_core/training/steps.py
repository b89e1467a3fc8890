"""Training steps of five workloads, each with and without its second-order part.

Every step is a direction p to add to the flat parameters x, times a learning rate. Its method ``plain`` is steepest
descent on the plain loss f, -∇f(x), and what every other method is compared with:

    critic          -(∇f + λ ∇ mean_i (‖∇_x D(x̃_i)‖ - 1)²)          Gulrajani et al. 2017, algorithm 1, λ = 10
    PINN            -(∇f + w ∇ mean_i r(x_i)²), r with derivatives of u   Raissi, Perdikaris & Karniadakis 2019, eq. 4
    meta-learning   -(I - αH_0) ⋯ (I - αH_{K-1}) ∇L_q(φ_K)             Finn, Abbeel & Levine 2017, algorithm 1
    Newton          -(H + damping I)⁻¹ ∇f                              Steihaug 1983
    natural         -(F + damping I)⁻¹ ∇f                              Amari 1998, eq. 2.6

The kernels of the second-order parts are those of the operators named in each docstring; a step has their methods,
under the same names. Nothing is shared between the plain gradient and the second-order part, as nothing is in the
sources' algorithms: the penalty and the residual look at other points than the plain loss does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hograd_core._checks import Function, ScalarFunction, T, check_point, scalar_function
from hograd_core._how import How, Unpack
from hograd_core._registry import Operator, method, operator, to_method
from hograd_core.applications._equations import Equation
from hograd_core.applications.gradient_penalty import gradient_penalty
from hograd_core.applications.maml import Loss, meta_gradient
from hograd_core.applications.pinn import residual_loss
from hograd_core.curvature._model import Inputs, check_damping
from hograd_core.curvature._precision import unbounded
from hograd_core.derivatives.gradient import gradient
from hograd_core.solvers._newton_cg import newton_cg_step
from hograd_core.solvers.natural_gradient import natural_gradient_step

PLAIN = "plain"
PENALTY_WEIGHT = 10.0
RESIDUAL_WEIGHT = 1.0

Step = Callable[..., Tensor]


def flat(parameters: dict[str, Tensor]) -> Tensor:
    """Tensors by parameter name as one vector, in their order: that of :func:`hograd_core.from_module`."""
    return torch.cat([p.reshape(-1) for p in parameters.values()])


def _start(f: Any, x: Any, module: Any, name: str) -> tuple[ScalarFunction, Tensor]:
    """f and x checked, x to be the module's trainable parameters.

    Raises:
        TypeError: f, x or the module is not of the kind asked for.
        ValueError: x has another number of elements than the module's trainable parameters.
    """
    function, point = scalar_function(f), check_point(x)
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name}: got {type(module).__name__}, expected a torch.nn.Module")
    count = sum(p.numel() for p in module.parameters() if p.requires_grad)
    if count != point.numel():
        raise ValueError(
            f"x: got {point.numel()} elements, expected the {count} trainable parameters of {name}; "
            "use f, x = from_module(...)"
        )
    return function, point


@operator(result="x", default="double_backward", order=2)
def critic_training_step(
    f: ScalarFunction,
    x: Tensor,
    critic: nn.Module,
    real: Tensor,
    fake: Tensor,
    mixing: Tensor,
    weight: float = PENALTY_WEIGHT,
    **how: Unpack[How],
) -> Tensor:
    """A critic's step on its plain loss f and the WGAN-GP penalty (``gradient_penalty``).

    Args:
        f: the critic's loss without a penalty, of its flat parameters.
        x: those parameters, (P,), at the critic's own values.
        critic: (batch, ...) -> (batch, ...), one score a sample.
        real: shape (batch, ...), any rank from 2.
        fake: like ``real``.
        mixing: ε of shape (batch, 1, ..., 1).
        weight: λ, the penalty's.

    Returns:
        The step, (P,), detached. Cost: a gradient of f and a penalty's.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: shapes do not pair.
        UnsupportedError: PyTorch has no second derivative of a step of the critic by this method.
    """
    return to_method(*_start(f, x, critic, "critic"), (critic, real, fake, mixing), float(weight))


@operator(result="x", default="nested_reverse", order=4)
def pinn_training_step(
    f: ScalarFunction,
    x: Tensor,
    u: nn.Module,
    points: Tensor,
    equation: Equation,
    weight: float = RESIDUAL_WEIGHT,
    **how: Unpack[How],
) -> Tensor:
    """A network's step on its data loss f and the mean squared residual of an equation (``residual_loss``).

    Args:
        f: the data loss, of the network's flat parameters.
        x: those parameters, (P,), at the network's own values.
        u: a network (N, d) -> (N,) or (N, 1).
        points: shape (N, d), where the equation is to hold.
        equation: ``burgers()``, ``kuramoto_sivashinsky()``, or another :class:`Equation`.
        weight: of the residual.

    Returns:
        The step, (P,), detached. Cost: a gradient of f and a residual loss's.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: u's result does not pair with the points.
        UnsupportedError: PyTorch has no formula for a step of u by this method.
    """
    return to_method(*_start(f, x, u, "u"), (u, points, equation), float(weight))


@operator(result="x", default="unrolled", order=2)
def meta_training_step(
    f: ScalarFunction,
    x: Tensor,
    model: nn.Module,
    loss: Loss,
    support: Any,
    query: Any,
    inner_steps: int,
    inner_rate: float,
    **how: Unpack[How],
) -> Tensor:
    """The outer step of meta-learning (``meta_gradient``); ``plain`` trains on all tasks at once, without inner steps.

    Args:
        f: the query loss without adaptation, of the model's flat parameters.
        x: those parameters, (P,), at the model's own values.
        model: its parameters are where the inner steps start.
        loss: (prediction, target) -> 0-dimensional tensor.
        support: (inputs, targets), each (tasks, shots, ...).
        query: (inputs, targets), each (tasks, shots, ...).
        inner_steps: K >= 0.
        inner_rate: α.

    Returns:
        The step, (P,), detached.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: the sets do not hold the same number of tasks.
        UnsupportedError: PyTorch has no second derivative of a step of the model by this method.
    """
    return to_method(*_start(f, x, model, "model"), (model, loss, support, query, inner_steps, inner_rate))


@operator(result="x", default="linearised", order=2)
def newton_training_step(f: Function[T], x: T, damping: float, **how: Unpack[How]) -> T:
    """A damped Newton step (``newton_cg_step``) beside steepest descent.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape.
        damping: multiple of the identity added to the Hessian, >= 0.

    Returns:
        The step, shaped like x, detached.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for; the message names it.
        FloatingPointError: the gradient or a product is not finite.
        UnsupportedError: PyTorch has no formula for a step of f by this method.
    """
    return to_method(scalar_function(f), check_point(x), (check_damping(damping),))


@operator(result="x", default="cg", order=2)
def natural_training_step(
    f: ScalarFunction, x: Tensor, module: nn.Module, loss: Loss, inputs: Inputs, targets: Tensor, **how: Unpack[How]
) -> Tensor:
    """A natural-gradient step (``natural_gradient_step``, its default damping) beside steepest descent.

    Args:
        f: the loss of the module on the batch, of its flat parameters.
        x: those parameters, (P,), at the module's own values.
        module: the network.
        loss: cross-entropy, squared error or binary cross-entropy with logits, of reduction mean or sum.
        inputs: a tensor, or a tuple of tensors passed positionally; batch first.
        targets: a tensor, batch first.

    Returns:
        The step, (P,), detached.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for; the message names it.
        UnsupportedError: PyTorch has no formula or batching rule for a layer by this method.
    """
    return to_method(*_start(f, x, module, "module"), (module, loss, inputs, targets))


def _added(part: Operator, name: str) -> Step:
    """-(∇f + weight · the gradient of the second-order part)."""

    def step(f: ScalarFunction, x: Tensor, arguments: tuple[Any, ...], weight: float) -> Tensor:
        own: Tensor = gradient(f, x)
        return -(own.reshape(-1) + weight * flat(part(*arguments, method=name).gradient)).reshape(x.shape)

    return step


def _outer(part: Operator, name: str) -> Step:
    """-(the gradient through the inner steps)."""

    def step(f: ScalarFunction, x: Tensor, arguments: tuple[Any, ...]) -> Tensor:
        return -flat(part(*arguments, method=name).gradient).reshape(x.shape)

    return step


def _solved(part: Operator, name: str) -> Step:
    """The solution of the system with f's Hessian."""

    def step(f: ScalarFunction, x: Tensor, arguments: tuple[Any, ...]) -> Tensor:
        found: Tensor = part(f, x, *arguments, method=name)
        return found

    return step


def _solved_on_model(part: Operator, name: str) -> Step:
    """The solution of the system with the model's Fisher matrix."""

    def step(f: ScalarFunction, x: Tensor, arguments: tuple[Any, ...]) -> Tensor:
        found: Tensor = part(*arguments, method=name)
        return found.reshape(x.shape)

    return step


def _descent(f: ScalarFunction, x: Tensor, *rest: Any) -> Tensor:
    """-∇f: the step without its second-order part, the named baseline. One gradient; the graph of f."""
    own: Tensor = gradient(f, x)
    return -own


_WAYS: tuple[tuple[Operator, Operator, Callable[[Operator, str], Step]], ...] = (
    (critic_training_step, gradient_penalty, _added),
    (pinn_training_step, residual_loss, _added),
    (meta_training_step, meta_gradient, _outer),
    (newton_training_step, newton_cg_step, _solved),
    (natural_training_step, natural_gradient_step, _solved_on_model),
)


def _declare(record: Operator, part: Operator, way: Callable[[Operator, str], Step]) -> None:
    method(
        record,
        PLAIN,
        mode="reverse",
        source="a named baseline, not the step: steepest descent on the plain loss (Cauchy 1847)",
        exact=False,
        # How far it is from the step is what the second-order part changes.
        tolerance=unbounded,
    )(_descent)
    for one in part.methods.values():
        step = way(part, one.name)
        step.__doc__ = f"{way.__doc__} By ``{part.name}[{one.name}]``."
        method(
            record, one.name, mode=one.mode, source=one.source, exact=one.exact, tolerance=one.tolerance,
            amounts_to=one.amounts_to,
        )(step)  # fmt: skip


for _way in _WAYS:
    _declare(*_way)
