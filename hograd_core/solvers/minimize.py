"""Newton's method for a smooth function: truncated conjugate gradients under a line search or a trust region."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import ScalarFunction, check_point, check_positive, scalar_function
from hograd_core.curvature._model import check_damping
from hograd_core.curvature.linear_operator import LINEARISED, HessianOperator
from hograd_core.solvers.conjugate_gradient import CGResult, Preconditioner, conjugate_gradient

PreconditionerFactory = Callable[[HessianOperator], Preconditioner]

CONVERGED = "converged"
MAX_ITERATIONS = "max_iterations"
LINE_SEARCH_FAILED = "line_search_failed"
RADIUS_TOO_SMALL = "radius_too_small"
NOT_FINITE = "not_finite"


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


@dataclass(frozen=True)
class NewtonResult:
    """Where the minimisation ended, and how.

    Attributes:
        x: the point, shaped like x0, detached.
        value: f(x). gradient_norm: Euclidean.
        status: "converged", "max_iterations", "line_search_failed" or "radius_too_small" (no step decreases f any
            more by more than rounding), or "not_finite" (f is unbounded below, or its derivatives overflow at ``x``).
        history: one record an iteration.
        evaluations: calls of f without derivatives; gradients: gradients taken; products: Hessian products.
    """

    x: Tensor
    value: float
    gradient_norm: float
    status: str
    history: tuple[NewtonIteration, ...]
    evaluations: int
    gradients: int
    products: int

    @property
    def converged(self) -> bool:
        """Whether the gradient's norm is within the tolerance."""
        return self.status == CONVERGED

    @property
    def iterations(self) -> int:
        """Outer iterations."""
        return len(self.history)


@dataclass
class _Run:
    """f with its counters, and the settings of one minimisation."""

    f: ScalarFunction
    shape: torch.Size
    hvp_method: str
    damping: float
    evaluations: int = 0
    gradients: int = 0
    products: int = 0
    history: list[NewtonIteration] = field(default_factory=list)

    def value(self, flat: Tensor) -> float:
        self.evaluations += 1
        with torch.no_grad():
            return float(self.f(flat.reshape(self.shape)))

    def expand(self, flat: Tensor) -> HessianOperator:
        self.gradients += 1
        return HessianOperator(self.f, flat.reshape(self.shape), method=self.hvp_method, damping=self.damping)


def minimize_newton(
    f: ScalarFunction,
    x0: Tensor,
    *,
    globalisation: str = "line_search",
    hvp_method: str = LINEARISED,
    gradient_tolerance: float | None = None,
    max_iterations: int = 200,
    forcing: str | float = "nocedal_wright",
    damping: float = 0.0,
    max_cg_iterations: int | None = None,
    initial_radius: float = 1.0,
    max_radius: float = 1e6,
    preconditioner: PreconditionerFactory | None = None,
    callback: Callable[[Tensor, NewtonIteration], None] | None = None,
) -> NewtonResult:
    """Minimise f from x0 by Newton's method with conjugate gradients on HVPs; no Hessian is formed.

    Line search: Nocedal & Wright 2006, algorithm 7.1, with backtracking by quadratic interpolation until the Armijo
    condition holds, or, where f no longer resolves the decrease, the approximate Wolfe condition of Hager & Zhang 2005
    (eq. 4.1). Trust region: algorithms 4.1 and 7.2, the ratio guarded against rounding as in Conn, Gould & Toint
    2000, §17.4.2. Converges to a point of small gradient, a local minimum or in unlucky cases a saddle.

    Cost of an outer iteration: one gradient, the conjugate-gradient iterations' HVPs, and evaluations of f for the
    search. Memory: that of an HVP plus some 8 vectors; nothing is kept between iterations.

    Args:
        f: function of a tensor shaped like x0, returning a 0-dimensional tensor; deterministic.
        x0: the start, any shape, a real floating dtype, any device; n elements.
        globalisation: "line_search" or "trust_region".
        hvp_method: "linearised" or a method of ``derivative_vector_product``.
        gradient_tolerance: converged at |g| <= gradient_tolerance, absolute; default sqrt(eps). Where f's own rounding
            keeps g above it, the search ends with a status that says so.
        max_iterations: most outer iterations.
        forcing: relative residual of the inner solve: "nocedal_wright", min(1/2, sqrt |g|) (superlinear);
            "eisenstat_walker", choice 2 of Eisenstat & Walker 1996 (gamma 0.9, alpha 2, safeguarded); or a number.
        damping: multiple of the identity added to every Hessian, >= 0.
        max_cg_iterations: most inner iterations; default 2 n.
        initial_radius: of the trust region.
        max_radius: of the trust region.
        preconditioner: given the Hessian operator at the current point (its ``gradient`` included), returns
            r -> M^-1 r, symmetric positive definite.
        callback: called with the current point and the record after every iteration.

    Returns:
        The result with its history.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for; the message names it.
        FloatingPointError: f or its gradient is not finite at x0.
        UnsupportedError: PyTorch has no formula for a step of f by this HVP method.
    """
    searches = {"line_search": _line_search, "trust_region": _trust_region}
    if globalisation not in searches:
        raise ValueError(f"globalisation: got {globalisation!r}, expected one of {', '.join(searches)}")
    if isinstance(forcing, str) and forcing not in ("nocedal_wright", "eisenstat_walker"):
        raise ValueError(f"forcing: got {forcing!r}, expected nocedal_wright, eisenstat_walker or a number in (0, 1)")
    if not isinstance(forcing, str) and not 0 < forcing < 1:
        raise ValueError(f"forcing: got {forcing}, expected a number in (0, 1)")
    if not 0 < initial_radius <= max_radius < math.inf:
        raise ValueError(f"initial_radius: got {initial_radius}, expected in (0, max_radius = {max_radius}]")
    check_positive(max_iterations, "max_iterations")
    x = check_point(x0)
    goal = torch.finfo(x.dtype).eps ** 0.5 if gradient_tolerance is None else gradient_tolerance
    if not goal > 0:
        raise ValueError(f"gradient_tolerance: got {gradient_tolerance}, expected > 0")
    run = _Run(scalar_function(f), x.shape, hvp_method, check_damping(damping))
    inner = {"max_iterations": max_cg_iterations}

    flat = x.reshape(-1).clone()
    hessian = run.expand(flat)
    norm = float(torch.linalg.vector_norm(hessian.gradient))
    if not math.isfinite(norm) or not math.isfinite(float(hessian.value)):
        raise FloatingPointError(f"f: value {float(hessian.value)} with gradient norm {norm} at x0, expected finite")
    previous, eta, radius, status = norm, 0.5, initial_radius, MAX_ITERATIONS
    moved = True
    for _ in range(max_iterations):
        if norm <= goal:
            break
        if moved:
            eta = _forcing(forcing, norm, previous, eta, first=not run.history)
        precondition = None if preconditioner is None else preconditioner(hessian)
        settings: dict[str, Any] = {**inner, "relative_tolerance": eta, "preconditioner": precondition}
        try:
            outcome = searches[globalisation](run, hessian, flat, radius, max_radius, settings)
        except FloatingPointError:
            status = NOT_FINITE
            break
        radius, moved = outcome.radius, outcome.moved is not None
        record = NewtonIteration(
            float(hessian.value), norm, outcome.cg.status, outcome.cg.iterations, outcome.cg.residuals[-1] / norm,
            eta, outcome.step_norm, outcome.scale, moved,
        )  # fmt: skip
        run.history.append(record)
        if outcome.moved is not None:
            flat = outcome.moved
            run.products += hessian.products
            hessian.close()
            hessian = run.expand(flat)
            previous, norm = norm, float(torch.linalg.vector_norm(hessian.gradient))
            if not math.isfinite(norm):
                outcome = replace(outcome, failure=NOT_FINITE)
        if callback is not None:
            callback(flat.reshape(x.shape), record)
        if outcome.failure is not None:
            status = outcome.failure
            break
    if norm <= goal:
        status = CONVERGED
    run.products += hessian.products
    hessian.close()
    return NewtonResult(
        flat.reshape(x.shape), float(hessian.value), norm, status, tuple(run.history),
        run.evaluations, run.gradients, run.products,
    )  # fmt: skip


def _forcing(rule: str | float, norm: float, previous: float, eta: float, *, first: bool) -> float:
    if not isinstance(rule, str):
        return float(rule)
    if rule == "nocedal_wright":
        return min(0.5, math.sqrt(norm))
    if first:
        return 0.5
    chosen = 0.9 * (norm / previous) ** 2
    safeguard = 0.9 * eta * eta
    return min(0.9, max(chosen, safeguard) if safeguard > 0.1 else chosen)


@dataclass(frozen=True)
class _Outcome:
    """What a search made of the inner solve's step; ``moved`` is the new point or None."""

    moved: Tensor | None
    cg: CGResult
    step_norm: float
    scale: float
    radius: float
    failure: str | None = None


def _line_search(
    run: _Run, hessian: HessianOperator, flat: Tensor, radius: float, max_radius: float, settings: dict[str, Any]
) -> _Outcome:
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
            return _Outcome(trial, cg, alpha * length, alpha, radius)
        if reached <= value + noise and -alpha * slope <= 16 * noise:
            # Hager & Zhang: judge by the slope, which still has digits where f has none.
            probe = run.expand(trial)
            ahead = float(probe.gradient @ step)
            probe.close()
            if 0.9 * slope <= ahead <= (2e-4 - 1) * slope:
                return _Outcome(trial, cg, alpha * length, alpha, radius)
        if math.isfinite(reached) and reached > value + alpha * slope:
            best = -slope * alpha * alpha / (2 * (reached - value - alpha * slope))
            alpha = min(max(best, 0.1 * alpha), 0.5 * alpha)
        else:
            alpha *= 0.1 if not math.isfinite(reached) else 0.5
    return _Outcome(None, cg, 0.0, alpha, radius, LINE_SEARCH_FAILED)


def _trust_region(
    run: _Run, hessian: HessianOperator, flat: Tensor, radius: float, max_radius: float, settings: dict[str, Any]
) -> _Outcome:
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
        return _Outcome(trial, cg, length, radius, shrunk)
    too_small = shrunk <= eps * max(1e-3, float(torch.linalg.vector_norm(flat)))
    return _Outcome(None, cg, length, radius, shrunk, RADIUS_TOO_SMALL if too_small else None)
