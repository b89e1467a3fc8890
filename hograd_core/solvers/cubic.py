"""Newton's method with cubic regularisation: the step, and a minimiser that adapts the regularisation.

The step minimises m(s) = gᵀs + sᵀHs/2 + (M/6) ‖s‖³ globally (Nesterov & Polyak 2006, eq. 2.4). With M a Lipschitz
constant of the Hessian, m bounds f from above. s is the minimiser if and only if, with λ = M‖s‖/2,

    (H + λI) s = −g   and   H + λI ⪰ 0                           (Cartis, Gould & Toint 2011, theorem 3.1)

H may be indefinite. Where g has no part in the eigenspace of the smallest eigenvalue (the "hard case"), a multiple of
that eigenvector completes the step: strict saddle points are left, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hograd_core._checks import (
    Function,
    ScalarFunction,
    T,
    check_finite,
    check_number,
    check_point,
    check_positive,
    scalar_function,
)
from hograd_core._entrance import entrance
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core.arguments import point_of
from hograd_core.curvature._lanczos import extreme_eigenpairs
from hograd_core.curvature.linear_operator import LINEARISED, HessianOperator, MatrixOperator, kernel_for
from hograd_core.derivatives.gradient import gradient
from hograd_core.prepare import Prepared
from hograd_core.solvers._dense import finite_hessian
from hograd_core.solvers._inside import refuse_inside_derivative
from hograd_core.solvers._subproblem import minimise_over_subspaces, solve_diagonal


class CubicStep(NamedTuple):
    """A minimiser of the cubic model.

    Attributes:
        step: s, shaped like x.
        multiplier: λ = M‖s‖/2, 0-dimensional; H + λI is positive semidefinite.
        decrease: −m(s) >= 0, 0-dimensional: at least the decrease of f where M bounds the Hessian's variation.
        products: Hessian-vector products spent (0 for a method that forms H).
        residual: how far s is from the conditions above, relative to ‖g‖ + λ‖s‖, 0-dimensional: the larger of
            ‖(H + λI) s + g‖ and |λ − M‖s‖/2| ‖s‖.
    """

    step: Tensor
    multiplier: Tensor
    decrease: Tensor
    products: int
    residual: Tensor


@operator(result="step shaped like x, multiplier, decrease", default="dense", order=2)
def cubic_newton_step(f: Function[T], x: T, regularisation: float = 1.0, **how: Unpack[How]) -> CubicStep:
    """The step of cubically regularised Newton: argmin gᵀs + sᵀHs/2 + (M/6) ‖s‖³.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device.
        regularisation: M > 0, an estimate of the Lipschitz constant of the Hessian.

    Returns:
        A :class:`CubicStep` in the dtype of x (solved in float64).

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional, or M is not positive and finite.
        FloatingPointError: the gradient or the Hessian at x is not finite.
        UnsupportedError: PyTorch has no second derivative of a step of f by this method.
    """
    refuse_inside_derivative("cubic_newton_step", x)
    return to_method(scalar_function(f), check_point(x), check_regularisation(regularisation))


def check_regularisation(value: Any) -> float:
    """M as a float.

    Raises:
        TypeError: not a number.
        ValueError: not positive and finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"regularisation: got {type(value).__name__}, expected a number > 0")
    if not 0 < value < math.inf:
        raise ValueError(f"regularisation: got {value}, expected a finite number > 0")
    return float(value)


def _result(
    s: Tensor, hs: Tensor, g: Tensor, multiplier: float, regularisation: float, x: Tensor, products: int
) -> CubicStep:
    norm, size = float(torch.linalg.vector_norm(s)), float(torch.linalg.vector_norm(g))
    decrease = -float(g @ s + s @ hs / 2) - regularisation / 6 * norm**3
    stationarity = float(torch.linalg.vector_norm(hs + multiplier * s + g))
    scale = size + multiplier * norm
    residual = max(stationarity, abs(multiplier - regularisation * norm / 2) * norm) / (scale or 1.0)
    numbers = (x.new_tensor(n) for n in (multiplier, max(decrease, 0.0), residual))
    multiplier_, decrease_, residual_ = numbers
    return CubicStep(s.reshape(x.shape).to(x.dtype), multiplier_, decrease_, products, residual_)


@method(
    cubic_newton_step,
    "dense",
    mode="as the Hessian's method",
    source="Nesterov & Polyak 2006, §5 (eigendecomposition and a scalar equation)",
    amounts_to=(("rows", 2),),
)
def dense(f: ScalarFunction, x: Tensor, regularisation: float, *, hessian_method: str | None = None) -> CubicStep:
    """Form H, decompose it, solve the secular equation. Time O(n³), memory O(n²); finds the hard case."""
    n = x.numel()
    g = check_finite(gradient(f, x).reshape(n).double(), "f: its gradient at x")
    h = finite_hessian(f, x, hessian_method).double()
    values, vectors = torch.linalg.eigh(h)
    y, multiplier = solve_diagonal(values, vectors.T @ g, regularisation)
    s = vectors @ y
    return _result(s, h @ s, g, multiplier, regularisation, x, 0)


@method(
    cubic_newton_step,
    "lanczos",
    mode="as the Hessian-vector product's method",
    source="Cartis, Gould & Toint 2011, §6.2 (minimisation over growing Krylov spaces)",
    amounts_to=(("double_backward", 2),),
)
def lanczos(
    f: ScalarFunction,
    x: Tensor,
    regularisation: float,
    *,
    hvp_method: str = LINEARISED,
    preparation: Any = "eager",
    relative_tolerance: float | None = None,
    max_iterations: int | None = None,
) -> CubicStep:
    """Minimise over the Krylov space of H and g, by Hessian-vector products; H is never formed.

    Full reorthogonalisation: memory 2 n numbers an iteration. Ends where the model's gradient is below
    ``relative_tolerance`` ‖g‖, or at n iterations, where the space is exhausted. Before that, a Lanczos process from a
    random start looks for negative curvature that the Krylov space does not see (the hard case, g = 0, and all between)
    and adds its direction: some more products, without which the minimiser might be one over the Krylov space alone.
    """
    n = x.numel()
    g = check_finite(gradient(f, x).reshape(n).double(), "f: its gradient at x")
    eps = torch.finfo(x.dtype).eps
    tolerance = eps if relative_tolerance is None else check_number(relative_tolerance, "relative_tolerance", minimum=0)
    limit = min(n, n if max_iterations is None else check_positive(max_iterations, "max_iterations"))
    with HessianOperator(f, x, method=hvp_method, preparation=preparation) as hessian:

        def product(v: Tensor) -> Tensor:
            # Scaled: half precision overflows for vectors that are harmless in float64.
            size = v.abs().max().clamp_min(torch.finfo(v.dtype).tiny)
            image = hessian.matvec((v / size).to(x.dtype)).detach().double() * size
            return check_finite(image, "f: a product with its Hessian at x")

        def lowest() -> tuple[float, Tensor]:
            h = MatrixOperator(product, n, g.dtype, g.device)
            pairs = extreme_eigenpairs(h, which="smallest", tolerance=eps**0.5, max_steps=min(n, 200))
            return float(pairs.values[0]), pairs.vectors[:, 0].to(g)

        start = g
        if not bool(g.any()):
            # The same direction at every call: a method without seed is deterministic.
            generator = torch.Generator("cpu").manual_seed(0)
            start = torch.randn(n, generator=generator, device="cpu", dtype=g.dtype).to(g.device)
        s, hs, multiplier = minimise_over_subspaces(
            product, g, start, regularisation, lowest, tolerance=tolerance, eps=eps, limit=limit
        )
        return _result(s, hs, g, multiplier, regularisation, x, hessian.products)


@dataclass(frozen=True)
class CubicResult:
    """Where the minimisation ended, and how.

    Attributes:
        x: the point, shaped like x0, detached.
        value: f(x). gradient_norm: Euclidean.
        multiplier: λ of the last step; near 0 at a point with positive semidefinite Hessian.
        regularisation: the last M.
        iterations: steps computed, taken or not. products: Hessian-vector products.
        status: "converged", "max_iterations", "not_finite" or "no_decrease".
    """

    x: Any
    value: float
    gradient_norm: float
    multiplier: float
    regularisation: float
    iterations: int
    products: int
    status: str


@entrance
def minimize_cubic_newton(
    f: Function[Any],
    x0: Any,
    *,
    args: tuple[Any, ...] = (),
    step_method: str = "dense",
    preparation: str | Prepared = "eager",
    regularisation: float = 1.0,
    gradient_tolerance: float | None = None,
    curvature_tolerance: float | None = None,
    max_iterations: int = 200,
) -> CubicResult:
    """Minimise f by cubic Newton steps with adaptive M (Cartis, Gould & Toint 2011, algorithm 2.1, η = 0.1, 0.9).

    A step is taken where f falls by at least a tenth of the model's decrease; M is doubled where it does not and halved
    where it falls by nine tenths. Converges to points of small gradient and (nearly) positive semidefinite Hessian: at
    a stationary point a last step tells whether it is a strict saddle.

    Args:
        f: function of x and ``args``, returning a 0-dimensional tensor.
        x0: the start, a tensor or a structure of tensors, of a real floating dtype.
        args: what f takes after x, not differentiated.
        step_method: a method of ``cubic_newton_step``.
        preparation: of Hessian-vector products, for ``step_method="lanczos"``: as for ``HessianOperator``; one kernel,
            traced once, serves all points.
        regularisation: the first M.
        gradient_tolerance: on ‖g‖; None: √eps of the dtype.
        curvature_tolerance: on λ of the step at a small gradient; None: eps^(1/4).
        max_iterations: steps tried at most.

    Returns:
        A :class:`CubicResult`.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional, or a number is out of range.
    """
    f, x0, packed = point_of(f, x0, args)
    refuse_inside_derivative("minimize_cubic_newton", x0)
    function = scalar_function(f)
    x = check_point(x0).detach().clone()
    check_positive(max_iterations, "max_iterations")
    eps = torch.finfo(x.dtype).eps
    flat = check_number(eps**0.5 if gradient_tolerance is None else gradient_tolerance, "gradient_tolerance", minimum=0)
    bent = eps**0.25 if curvature_tolerance is None else curvature_tolerance
    bent = check_number(bent, "curvature_tolerance", minimum=0)
    m, products, status = check_regularisation(regularisation), 0, "max_iterations"
    value = float(function(x).detach())
    kernel = kernel_for(preparation, function, x, LINEARISED)
    how: dict[str, Any] = {} if kernel == "eager" else {"preparation": kernel}
    slope, multiplier, steps = math.inf, 0.0, 0
    while steps < max_iterations:
        slope = float(torch.linalg.vector_norm(gradient(function, x)))
        if not (math.isfinite(slope) and math.isfinite(value)):
            status = "not_finite"
            break
        try:
            found: CubicStep = cubic_newton_step(function, x, m, method=step_method, **how)
        except FloatingPointError:
            status = "not_finite"
            break
        steps += 1
        products += found.products
        multiplier = float(found.multiplier)
        if slope <= flat and multiplier <= bent:
            status = "converged"
            break
        following = x + found.step
        reached = float(function(following).detach())
        decrease, promised = value - reached, float(found.decrease)
        # Rounding of f hides decreases below this: such a step is taken on the model's word.
        noise = 8 * eps * max(abs(value), 1.0)
        if decrease >= 0.1 * promised or (promised <= noise and abs(decrease) <= noise):
            x, value = following, reached
            m = max(m / 2, 1e-12) if decrease >= 0.9 * promised else m
        else:
            m *= 2
            if not m < 1e30:
                status = "no_decrease"
                break
    return CubicResult(x if packed is None else packed.unpack(x), value, slope, multiplier, m, steps, products, status)
