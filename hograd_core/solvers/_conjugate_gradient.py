"""Truncated conjugate gradients that know what to do with negative curvature and with a trust region."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import check_number, check_positive
from hograd_core._entrance import callback, entrance, unguarded
from hograd_core.curvature._precision import precision, solver_tolerance, widen, widened
from hograd_core.curvature.linear_operator import SymmetricOperator
from hograd_core.solvers._inside import refuse_inside_derivative

Preconditioner = Callable[[Tensor], Tensor]

CONVERGED = "converged"
NEGATIVE_CURVATURE = "negative_curvature"
BOUNDARY = "boundary"
MAX_ITERATIONS = "max_iterations"


@dataclass(frozen=True)
class CGResult:
    """What conjugate gradients on A p = b returned, and why it stopped there.

    Attributes:
        step: p, (n,), detached, in b's dtype (float32 for a half-precision one).
        status: "converged" (residual within tolerance), "negative_curvature" (a direction d with d^T A d <= 0 to
            rounding was met), "boundary" (the trust region's) or "max_iterations".
        iterations: number of conjugate directions used; products made equals it, plus one where a direction was
            rejected for its curvature.
        residuals: norms of b - A p by the recurrence, from p = 0 on.
        products: products with A.
        tolerance: the residual norm that was aimed at.
        norm: |p|_M, the norm that the radius bounds (Euclidean without a preconditioner).
        decrease: b^T p - p^T A p / 2, what the quadratic model promises for p.
    """

    step: Tensor
    status: str
    iterations: int
    residuals: tuple[float, ...]
    products: int
    tolerance: float
    norm: float
    decrease: float

    @property
    def converged(self) -> bool:
        """Whether the residual is within the tolerance."""
        return self.status == CONVERGED


@entrance
def conjugate_gradient(
    operator: SymmetricOperator,
    b: Tensor,
    *,
    relative_tolerance: float | None = None,
    absolute_tolerance: float = 0.0,
    max_iterations: int | None = None,
    radius: float | None = None,
    preconditioner: Preconditioner | None = None,
) -> CGResult:
    """Minimise -b^T p + p^T A p / 2 by conjugate gradients from p = 0, inside |p|_M <= radius where one is given.

    Steihaug 1983; Nocedal & Wright 2006, algorithms 7.1 (no radius) and 7.2 (radius); preconditioned: Conn, Gould &
    Toint 2000, algorithm 7.5.1, where the norm is that of the preconditioner M, tracked by recurrences. Where
    d^T A d <= eps |A| |d|², |A| the largest |A d|/|d| so far, so that the curvature is negative or its sign lost in
    rounding, the method stops: with a radius it goes along d to the boundary; without, it returns the p so far, or, in
    the first iteration, d scaled to r^T z / |d^T A d| (to 1 where that is zero), a descent direction of Newton-like
    length. No constant is added to any denominator.

    On a positive definite A the solution is exact after at most n iterations but for rounding. Cost of an
    iteration: one product and 10 n operations; memory: 5 vectors.

    Args:
        operator: A, symmetric, of dimension n.
        b: right-hand side, (n,); for a Newton step the negative gradient.
        relative_tolerance: stop at |r| <= max(relative_tolerance |b|, absolute_tolerance); default
            max(eps^0.75, 16 eps).
        absolute_tolerance: see there.
        max_iterations: most iterations; default 2 n, since rounding delays the end beyond n.
        radius: of the trust region, > 0, or None.
        preconditioner: r -> M^-1 r, symmetric positive definite; None is the identity.

    Returns:
        Step, status and report.

    Raises:
        TypeError: b is not a tensor of the operator's dtype, or a number is none.
        ValueError: b does not fit, or a radius or tolerance that is not positive, or a preconditioner that is
            not positive definite.
        FloatingPointError: b or a product is not finite, or its squared norm overflows.
    """
    if not isinstance(b, Tensor):
        raise TypeError(f"b: got {type(b).__name__}, expected a torch.Tensor of shape ({operator.n},)")
    if b.shape != (operator.n,):
        raise ValueError(f"b: got shape {tuple(b.shape)}, expected ({operator.n},)")
    if b.dtype != operator.dtype:
        raise TypeError(
            f"b: got dtype {b.dtype}, expected {operator.dtype} like the operator; use b.to(operator.dtype)"
        )
    if b.device != operator.device:
        raise ValueError(f"b: got device {b.device}, expected {operator.device} like the operator; use b.to(...)")
    refuse_inside_derivative("conjugate_gradient", b)
    if radius is not None and not check_number(radius, "radius") > 0:
        raise ValueError(f"radius: got {radius}, expected a finite number > 0 or None")
    limit = 2 * operator.n if max_iterations is None else check_positive(max_iterations, "max_iterations")
    # An inference tensor cannot be saved for backward, as products save it.
    b = widened(b.clone() if b.is_inference() else b.detach())
    operator = widen(operator)
    eps = precision(operator)
    if relative_tolerance is None:
        relative = solver_tolerance(eps)
    else:
        relative = check_number(relative_tolerance, "relative_tolerance", minimum=0)
    absolute = check_number(absolute_tolerance, "absolute_tolerance", minimum=0)
    if preconditioner is not None:
        preconditioner = _preconditioned(preconditioner)

    size = float(b.abs().max())
    if not math.isfinite(size):
        raise FloatingPointError("b: holds a value that is not finite")
    if size and not 0 < norm_of(b) ** 2 < math.inf:
        raise FloatingPointError(
            f"b: its squared norm over- or underflows in {b.dtype}, with a largest entry of {size:.3g}; scale b"
        )

    p = torch.zeros_like(b)
    r = b.clone()
    norm = norm_of(b)
    goal = max(relative * norm, absolute)
    residuals = [norm]
    if norm <= goal or norm == 0.0:
        return CGResult(p, CONVERGED, 0, tuple(residuals), 0, goal, 0.0, 0.0)
    z = r if preconditioner is None else preconditioner(r)
    d = z.clone()
    rz = _positive(float(r @ z))
    # Norms in M by recurrence: |p|², p^T M d, |d|² (Conn, Gould & Toint 2000, eq. 7.5.5-7).
    pp, pd, dd = 0.0, 0.0, rz
    decrease, largest = 0.0, 0.0

    def result(status: str, iterations: int, products: int) -> CGResult:
        return CGResult(p, status, iterations, tuple(residuals), products, goal, math.sqrt(pp), decrease)

    for iteration in range(limit):
        ad = operator.matvec(d)
        refuse_inside_derivative("conjugate_gradient", ad)
        ad = ad.detach()
        curvature = float(d @ ad)
        if not math.isfinite(curvature):
            what = "its product is not finite" if not bool(ad.isfinite().all()) else f"d^T A d overflows in {d.dtype}"
            raise FloatingPointError(f"operator: {what} in iteration {iteration + 1}")
        length = norm_of(d)
        largest = max(largest, norm_of(ad) / length)
        if curvature <= eps * largest * length * length:
            tau = 0.0
            if radius is not None:
                tau = _to_boundary(pp, pd, dd, radius)
            elif iteration == 0:
                tau = rz / -curvature if curvature < 0 else 1.0
            p.add_(d, alpha=tau)
            decrease += tau * rz - 0.5 * tau * tau * curvature
            pp += 2 * tau * pd + tau * tau * dd
            return result(NEGATIVE_CURVATURE, iteration, iteration + 1)
        alpha = rz / curvature
        ahead = pp + 2 * alpha * pd + alpha * alpha * dd
        if radius is not None and ahead >= radius * radius:
            tau = _to_boundary(pp, pd, dd, radius)
            p.add_(d, alpha=tau)
            decrease += tau * rz - 0.5 * tau * tau * curvature
            pp = radius * radius
            return result(BOUNDARY, iteration + 1, iteration + 1)
        pp = ahead
        decrease += 0.5 * alpha * rz
        p.add_(d, alpha=alpha)
        r.sub_(ad, alpha=alpha)
        residuals.append(norm_of(r))
        if residuals[-1] <= goal:
            return result(CONVERGED, iteration + 1, iteration + 1)
        z = r if preconditioner is None else preconditioner(r)
        previous, rz = rz, _positive(float(r @ z))
        beta = rz / previous
        pd = beta * (pd + alpha * dd)
        dd = rz + beta * beta * dd
        d = z + beta * d
    return result(MAX_ITERATIONS, limit, limit)


def _preconditioned(preconditioner: Callable[[Tensor], Any]) -> Preconditioner:
    """The caller's r -> M^-1 r, its result checked and without graph."""
    apply = callback(preconditioner)

    def checked(r: Tensor) -> Tensor:
        # It gets a copy, for it may write to what it is given, and r lives on.
        with unguarded():
            z = apply(r.clone())
        if not isinstance(z, Tensor) or z.shape != r.shape or z.device != r.device:
            got = f"{tuple(z.shape)} on {z.device}" if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(f"preconditioner: returned {got}, expected {tuple(r.shape)} on {r.device} like r")
        return z.detach().to(r.dtype)

    return checked


def norm_of(v: Tensor) -> float:
    """Its Euclidean length."""
    return float(torch.linalg.vector_norm(v))


def _positive(rz: float) -> float:
    if not 0 < rz < math.inf:
        raise ValueError(
            f"preconditioner: got r^T M^-1 r = {rz} for a residual that is not zero, expected > 0; "
            "it must be symmetric positive definite"
        )
    return rz


def _to_boundary(pp: float, pd: float, dd: float, radius: float) -> float:
    """The tau >= 0 with |p + tau d| = radius, by the form of the root that does not cancel."""
    gap = radius * radius - pp
    root = math.sqrt(pd * pd + dd * gap)
    return gap / (pd + root) if pd > 0 else (root - pd) / dd
