"""What a Newton minimisation makes of the step of its inner solve: a backtracking line search, or a trust region."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import ScalarFunction
from hograd_core.curvature.linear_operator import HessianOperator
from hograd_core.prepare import Prepared
from hograd_core.solvers._conjugate_gradient import CGResult, conjugate_gradient

LINE_SEARCH_FAILED = "line_search_failed"
RADIUS_TOO_SMALL = "radius_too_small"


@dataclass(frozen=True)
class NewtonIteration:
    """One outer iteration.

    Attributes:
        value, gradient_norm: at its start.
        cg_status, cg_iterations, cg_residual: of the inner solve; the residual is relative to the gradient norm.
        forcing: the relative residual that was aimed at.
        step_norm: length of the step tried last (0 where it was rejected by the line search).
        scale: step length of the line search, or the trust-region radius.
        accepted: whether the point moved.
    """

    value: float
    gradient_norm: float
    cg_status: str
    cg_iterations: int
    cg_residual: float
    forcing: float
    step_norm: float
    scale: float
    accepted: bool


@dataclass
class Run:
    """f with its counters, and the settings of one minimisation.

    Attributes:
        given, args: f as Hessians are asked for of it: by a kernel at hand that is as the kernel was made of it.
    """

    f: ScalarFunction
    shape: torch.Size
    hvp_method: str
    damping: float
    given: Callable[..., Tensor]
    args: tuple[Any, ...] = ()
    preparation: str | Prepared = "eager"
    evaluations: int = 0
    gradients: int = 0
    products: int = 0
    history: list[NewtonIteration] = field(default_factory=list)

    def value(self, flat: Tensor) -> float:
        self.evaluations += 1
        return float(self.f(flat.reshape(self.shape)).detach())

    def expand(self, flat: Tensor) -> HessianOperator:
        self.gradients += 1
        how: dict[str, Any] = {"method": self.hvp_method, "damping": self.damping, "preparation": self.preparation}
        return HessianOperator(self.given, flat.reshape(self.shape), args=self.args, **how)


@dataclass(frozen=True)
class Outcome:
    """What a search made of the inner solve's step; ``moved`` is the new point or None."""

    moved: Tensor | None
    cg: CGResult
    step_norm: float
    scale: float
    radius: float
    failure: str | None = None


def line_search(
    run: Run, hessian: HessianOperator, flat: Tensor, radius: float, max_radius: float, settings: dict[str, Any]
) -> Outcome:
    cg = conjugate_gradient(hessian, -hessian.gradient, **settings)
    step = cg.step.to(flat.dtype)
    slope = float(step @ hessian.gradient)
    if not slope < 0:  # only by rounding: conjugate gradients from 0 descend
        step, slope = -hessian.gradient, -float(hessian.gradient @ hessian.gradient)
    value = float(hessian.value)
    length = float(torch.linalg.vector_norm(step))
    # What f cannot resolve: its own rounding, taken as a few units in the last place of its value.
    noise = 8 * torch.finfo(flat.dtype).eps * abs(value)
    alpha = 1.0
    for _ in range(50):
        trial = flat + alpha * step
        reached = run.value(trial)
        if reached <= value + 1e-4 * alpha * slope:
            return Outcome(trial, cg, alpha * length, alpha, radius)
        if reached <= value + noise and -alpha * slope <= 16 * noise:
            # Hager & Zhang: judge by the slope, which still has digits where f has none.
            probe = run.expand(trial)
            ahead = float(probe.gradient @ step)
            probe.close()
            if 0.9 * slope <= ahead <= (2e-4 - 1) * slope:
                return Outcome(trial, cg, alpha * length, alpha, radius)
        if math.isfinite(reached) and reached > value + alpha * slope:
            best = -slope * alpha * alpha / (2 * (reached - value - alpha * slope))
            alpha = min(max(best, 0.1 * alpha), 0.5 * alpha)
        else:
            alpha *= 0.1 if not math.isfinite(reached) else 0.5
    return Outcome(None, cg, 0.0, alpha, radius, LINE_SEARCH_FAILED)


def trust_region(
    run: Run, hessian: HessianOperator, flat: Tensor, radius: float, max_radius: float, settings: dict[str, Any]
) -> Outcome:
    cg = conjugate_gradient(hessian, -hessian.gradient, radius=radius, **settings)
    step = cg.step.to(flat.dtype)
    value = float(hessian.value)
    trial = flat + step
    reached = run.value(trial)
    eps = torch.finfo(flat.dtype).eps
    noise = 10 * eps * max(1.0, abs(value))
    ratio = (value - reached + noise) / (cg.decrease + noise) if math.isfinite(reached) else -1.0
    at_boundary = cg.status in ("boundary", "negative_curvature")
    if ratio < 0.25:
        shrunk = 0.25 * min(cg.norm, radius)
    elif ratio > 0.75 and at_boundary:
        shrunk = min(2 * radius, max_radius)
    else:
        shrunk = radius
    length = float(torch.linalg.vector_norm(step))
    if ratio > 1e-4:
        return Outcome(trial, cg, length, radius, shrunk)
    too_small = shrunk <= eps * max(1e-3, float(torch.linalg.vector_norm(flat)))
    return Outcome(None, cg, length, radius, shrunk, RADIUS_TOO_SMALL if too_small else None)
