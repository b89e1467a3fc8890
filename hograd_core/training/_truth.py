"""The truth of the training steps: the reference gradient of f and the truths of the second-order parts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hograd_core.reference import Truth, true_value, truth
from hograd_core.training.steps import (
    PENALTY_WEIGHT,
    RESIDUAL_WEIGHT,
    critic_training_step,
    flat,
    meta_training_step,
    natural_training_step,
    newton_training_step,
    pinn_training_step,
)


def _added(f: Any, x: Tensor, part: Tensor, weight: float) -> Truth:
    """The terms may cancel: each is known to its own rounding, so the scale is theirs."""
    own = true_value("gradient", f, x).value.reshape(-1)
    scale = float(own.abs().max()) + weight * float(part.abs().max())
    return Truth(-(own + weight * part).reshape(x.shape), scale or None)


@truth(critic_training_step)
def _critic(f: Any, x: Tensor, *arguments: Any, weight: float = PENALTY_WEIGHT) -> Truth:
    return _added(f, x, flat(true_value("gradient_penalty", *arguments).value.gradient), weight)


@truth(pinn_training_step)
def _pinn(f: Any, x: Tensor, *arguments: Any, weight: float = RESIDUAL_WEIGHT) -> Truth:
    found = true_value("residual_loss", *arguments)
    return _added(f, x, flat(found.value.gradient), weight)


@truth(meta_training_step)
def _meta(f: Any, x: Tensor, *arguments: Any) -> Tensor:
    return -flat(true_value("meta_gradient", *arguments).value.gradient).reshape(x.shape)


@truth(newton_training_step)
def _newton(f: Any, x: Tensor, damping: float) -> Truth:
    return true_value("newton_cg_step", f, x, damping)


@truth(natural_training_step)
def _natural(f: Any, x: Tensor, *arguments: Any) -> Truth:
    solved = true_value("natural_gradient_step", *arguments)
    return Truth(solved.value.reshape(x.shape), solved.scale)
