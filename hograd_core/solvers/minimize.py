"""Newton's method for a smooth function: truncated conjugate gradients under a line search or a trust region."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import Function, check_number, check_point, check_positive, scalar_function
from hograd_core._entrance import callback as enter
from hograd_core._entrance import entrance, unguarded
from hograd_core.arguments import Packing, point_of
from hograd_core.curvature._lanczos import extreme_eigenpairs
from hograd_core.curvature._model import check_damping
from hograd_core.curvature.linear_operator import LINEARISED, HessianOperator, kernel_for
from hograd_core.hazards import guarded
from hograd_core.prepare import Prepared
from hograd_core.solvers._conjugate_gradient import Preconditioner
from hograd_core.solvers._globalisation import NewtonIteration, Outcome, Run, line_search, trust_region
from hograd_core.solvers._inside import refuse_inside_derivative
from hograd_core.solvers._newton_cg import product_of

PreconditionerFactory = Callable[[HessianOperator], Preconditioner]

CONVERGED = "converged"
MAX_ITERATIONS = "max_iterations"
NOT_FINITE = "not_finite"
SADDLE = "saddle"
MAXIMUM = "maximum"


@dataclass(frozen=True)
class NewtonResult:
    """Where the minimisation ended, and how.

    Attributes:
        x: the point, shaped like x0, detached.
        value: f(x). gradient_norm: Euclidean.
        status: "converged", "saddle" or "maximum" (the gradient is small, and the Hessian has a negative eigenvalue, or
            no positive one), "max_iterations", "line_search_failed" or "radius_too_small" (no step decreases f any
            more by more than rounding), or "not_finite" (f is unbounded below, or f or its derivatives are not finite
            at ``x``).
        history: one record an iteration.
        evaluations: calls of f without derivatives; gradients: gradients taken; products: Hessian products.
        lowest_curvature: smallest eigenvalue of the Hessian at a point of small gradient, NaN elsewhere.
        descent: at a saddle or maximum the unit direction of that curvature, shaped like x; else None.
    """

    x: Any
    value: float
    gradient_norm: float
    status: str
    history: tuple[NewtonIteration, ...]
    evaluations: int
    gradients: int
    products: int
    lowest_curvature: float = math.nan
    descent: Any = None

    @property
    def converged(self) -> bool:
        """Whether the gradient's norm is within the tolerance, and no curvature is negative."""
        return self.status == CONVERGED

    @property
    def iterations(self) -> int:
        """Outer iterations."""
        return len(self.history)


@entrance
def minimize_newton(
    f: Function[Any],
    x0: Any,
    *,
    args: tuple[Any, ...] = (),
    globalisation: str = "line_search",
    hvp_method: str = LINEARISED,
    preparation: str | Prepared = "eager",
    gradient_tolerance: float | None = None,
    max_iterations: int = 200,
    forcing: str | float = "nocedal_wright",
    damping: float = 0.0,
    max_cg_iterations: int | None = None,
    initial_radius: float = 1.0,
    max_radius: float = 1e6,
    preconditioner: PreconditionerFactory | None = None,
    callback: Callable[[Any, NewtonIteration], None] | None = None,
) -> NewtonResult:
    """Minimise f from x0 by Newton's method with conjugate gradients on HVPs; no Hessian is formed.

    Line search: Nocedal & Wright 2006, algorithm 7.1, with backtracking by quadratic interpolation until the Armijo
    condition holds, or, where f no longer resolves the decrease, the approximate Wolfe condition of Hager & Zhang 2005
    (eq. 4.1). Trust region: algorithms 4.1 and 7.2, the ratio guarded against rounding as in Conn, Gould & Toint
    2000, §17.4.2. Converges to a point of small gradient: a local minimum, or in unlucky cases (a start on the stable
    manifold) a saddle; a Lanczos process at the end tells which, and the status says so. Where the lowest eigenvalue is
    0 to rounding, second derivatives cannot tell, and the point counts as a minimum. ``minimize_cubic_newton`` goes on
    from saddles.

    Cost of an outer iteration: one gradient, the conjugate-gradient iterations' HVPs, and evaluations of f for the
    search. Memory: that of an HVP plus some 8 vectors; nothing is kept between iterations.

    Args:
        f: function of x and ``args``, returning a 0-dimensional tensor; deterministic.
        x0: the start, a tensor or a structure of tensors, of a real floating dtype, any device; n elements.
        args: what f takes after x, not differentiated.
        globalisation: "line_search" or "trust_region".
        hvp_method: "linearised" or a method of ``derivative_vector_product``.
        preparation: as for ``HessianOperator``: products at all points are of one kernel, which is traced once.
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
        UnsupportedError: PyTorch has no formula for a step of f by this HVP method, or the result would be
            differentiated further.
    """
    searches = {"line_search": line_search, "trust_region": trust_region}
    if globalisation not in searches:
        raise ValueError(f"globalisation: got {globalisation!r}, expected one of {', '.join(searches)}")
    if isinstance(forcing, str) and forcing not in ("nocedal_wright", "eisenstat_walker"):
        raise ValueError(f"forcing: got {forcing!r}, expected nocedal_wright, eisenstat_walker or a number in (0, 1)")
    if not isinstance(forcing, str) and not 0 < check_number(forcing, "forcing") < 1:
        raise ValueError(f"forcing: got {forcing}, expected a number in (0, 1)")
    check_number(max_radius, "max_radius")
    if not 0 < check_number(initial_radius, "initial_radius") <= max_radius:
        raise ValueError(f"initial_radius: got {initial_radius}, expected in (0, max_radius = {max_radius}]")
    check_positive(max_iterations, "max_iterations")
    given = f
    f, x0, packed = point_of(f, x0, args)
    refuse_inside_derivative("minimize_newton", x0)
    x = check_point(x0).detach()
    goal = torch.finfo(x.dtype).eps ** 0.5
    if gradient_tolerance is not None and not (goal := check_number(gradient_tolerance, "gradient_tolerance")) > 0:
        raise ValueError(f"gradient_tolerance: got {gradient_tolerance}, expected > 0")
    function = scalar_function(f)
    if not isinstance(preparation, Prepared):
        given, args = function, ()
    kernel = kernel_for(preparation, function, x, hvp_method)
    run = Run(function, x.shape, hvp_method, check_damping(damping), given, args, kernel)
    with guarded("minimize_newton", (product_of(hvp_method), 2)):
        found = _minimize(
            run, x, goal, searches[globalisation], max_iterations, forcing, {"max_iterations": max_cg_iterations},
            (initial_radius, max_radius),
            None if preconditioner is None else enter(preconditioner),
            None if callback is None else enter(callback if packed is None else _of_structure(callback, packed)),
        )  # fmt: skip
    if packed is None:
        return found
    descent = None if found.descent is None else packed.unpack(found.descent)
    return replace(found, x=packed.unpack(found.x), descent=descent)


def _of_structure(
    callback: Callable[[Any, NewtonIteration], None], packed: Packing
) -> Callable[[Tensor, NewtonIteration], None]:
    return lambda x, record: callback(packed.unpack(x), record)


def _minimize(
    run: Run,
    x: Tensor,
    goal: float,
    search: Callable[..., Outcome],
    max_iterations: int,
    forcing: str | float,
    inner: dict[str, Any],
    radii: tuple[float, float],
    preconditioner: PreconditionerFactory | None,
    callback: Callable[[Tensor, NewtonIteration], Any] | None,
) -> NewtonResult:
    flat = x.reshape(-1).clone()
    hessian = run.expand(flat)
    norm = float(torch.linalg.vector_norm(hessian.gradient))
    radius, max_radius = radii
    if not math.isfinite(norm) or not math.isfinite(float(hessian.value)):
        hessian.close()
        return NewtonResult(
            flat.reshape(x.shape), float(hessian.value), norm, NOT_FINITE, (), run.evaluations, run.gradients, 0
        )
    previous, eta, status = norm, 0.5, MAX_ITERATIONS
    moved = True
    for _ in range(max_iterations):
        if norm <= goal:
            break
        if moved:
            eta = _forcing(forcing, norm, previous, eta, first=not run.history)
        with unguarded():
            precondition = None if preconditioner is None else preconditioner(hessian)
        settings: dict[str, Any] = {**inner, "relative_tolerance": eta, "preconditioner": precondition}
        try:
            outcome = search(run, hessian, flat, radius, max_radius, settings)
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
            with unguarded():
                callback(flat.reshape(x.shape).clone(), record)
        if outcome.failure is not None:
            status = outcome.failure
            break
    lowest, descent = math.nan, None
    if norm <= goal:
        status, lowest, descent = _kind(hessian, run.damping)
    run.products += hessian.products
    hessian.close()
    return NewtonResult(
        flat.reshape(x.shape), float(hessian.value), norm, status, tuple(run.history),
        run.evaluations, run.gradients, run.products, lowest, None if descent is None else descent.reshape(x.shape),
    )  # fmt: skip


def _kind(hessian: HessianOperator, damping: float) -> tuple[str, float, Tensor | None]:
    """Minimum, saddle or maximum: status, smallest eigenvalue of the undamped Hessian, direction down."""
    try:
        # A negative Ritz value proves negative curvature; from a random start 100 steps find what there is.
        tolerance, steps = torch.finfo(hessian.dtype).eps ** 0.5, min(hessian.n, 100)
        pairs = extreme_eigenpairs(hessian, which="both", tolerance=tolerance, max_steps=steps)
    except FloatingPointError:
        # A Hessian that is not finite at a point of small gradient tells nothing.
        return CONVERGED, math.nan, None
    low, high = float(pairs.values[0]) - damping, float(pairs.values[-1]) - damping
    # Below this an eigenvalue is 0 to rounding of the products, and to the residual of the gradient.
    noise = torch.finfo(hessian.dtype).eps ** 0.5 * max(abs(low), abs(high))
    if low >= -noise:
        return CONVERGED, low, None
    return (MAXIMUM if high <= noise else SADDLE), low, pairs.vectors[:, 0].to(hessian.dtype)


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
