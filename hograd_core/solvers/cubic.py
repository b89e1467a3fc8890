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

from hograd_core._checks import ScalarFunction, check_finite, check_point, check_positive, scalar_function
from hograd_core._registry import method, operator
from hograd_core.curvature.lanczos import extreme_eigenpairs
from hograd_core.curvature.linear_operator import LINEARISED, HessianOperator
from hograd_core.derivatives.derivative_tensor import derivative_tensor
from hograd_core.derivatives.gradient import gradient


class CubicStep(NamedTuple):
    """A minimiser of the cubic model.

    Attributes:
        step: s, shaped like x.
        multiplier: λ = M‖s‖/2, 0-dimensional; H + λI is positive semidefinite.
        decrease: −m(s) >= 0, 0-dimensional: at least the decrease of f where M bounds the Hessian's variation.
        products: Hessian-vector products spent (0 for a method that forms H).
        residual: ‖(H + λI) s + g‖ / ‖g‖ (over 1 where g = 0), 0-dimensional.
    """

    step: Tensor
    multiplier: Tensor
    decrease: Tensor
    products: int
    residual: Tensor


def solve_diagonal(eigenvalues: Tensor, g: Tensor, regularisation: float) -> tuple[Tensor, float]:
    """Minimise gᵀy + Σ h_i y_i²/2 + (M/6) ‖y‖³, the cubic model in the eigenbasis of H.

    Solves the secular equation ‖y(λ)‖ = 2λ/M, y_i(λ) = −g_i/(h_i + λ), by Newton's method inside a bracket, in the
    variable λ − max(0, −h_1) so that nothing cancels next to the hard case.

    Args:
        eigenvalues: h, ascending, shape (n,), float64.
        g: shape (n,), float64.
        regularisation: M > 0.

    Returns:
        y, and λ.
    """
    h = eigenvalues
    lowest = float(h[0])
    shift = max(0.0, -lowest)
    gaps = h - lowest if shift else h
    size = float(torch.linalg.vector_norm(g))
    if size == 0 and shift == 0:
        return torch.zeros_like(g), 0.0
    flat = gaps <= torch.finfo(h.dtype).eps * h.abs().max() * len(h)
    if shift and float(torch.linalg.vector_norm(g[flat])) <= torch.finfo(h.dtype).eps * size:
        y = torch.where(flat, 0.0, -g / torch.where(flat, 1.0, gaps))
        rest = (2 * shift / regularisation) ** 2 - float(y.square().sum())
        if rest >= 0:
            y[0] = math.sqrt(rest)
            return y, shift
    low, high = 0.0, math.sqrt(regularisation * size / 2)
    mu = high
    for _ in range(200):
        below = gaps + mu
        y = -g / below
        norm = float(torch.linalg.vector_norm(y))
        excess = norm - 2 * (shift + mu) / regularisation
        low, high = (mu, high) if excess > 0 else (low, mu)
        slope = -float((y.square() / below).sum()) / norm - 2 / regularisation if norm else -2 / regularisation
        newton = mu - excess / slope
        following = newton if low < newton < high else (low + high) / 2
        if following == mu or high - low <= 4 * torch.finfo(h.dtype).eps * (shift + high):
            break
        mu = following
    return -g / (gaps + mu), shift + mu


@operator(result="step shaped like x, multiplier, decrease", default="dense", order=2)
def cubic_newton_step(f: ScalarFunction, x: Tensor, regularisation: float = 1.0) -> tuple[Any, ...]:
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
    if isinstance(regularisation, bool) or not isinstance(regularisation, int | float):
        raise TypeError(f"regularisation: got {type(regularisation).__name__}, expected a number > 0")
    if not 0 < regularisation < math.inf:
        raise ValueError(f"regularisation: got {regularisation}, expected a finite number > 0")
    return scalar_function(f), check_point(x), float(regularisation)


def _result(
    s: Tensor, hs: Tensor, g: Tensor, multiplier: float, regularisation: float, x: Tensor, products: int
) -> CubicStep:
    norm = torch.linalg.vector_norm(s)
    decrease = -(g @ s + s @ hs / 2 + regularisation / 6 * norm**3)
    residual = torch.linalg.vector_norm(hs + multiplier * s + g)
    size = torch.linalg.vector_norm(g)
    relative = residual / size if float(size) > 0 else residual
    numbers = (torch.tensor(multiplier, dtype=s.dtype), decrease.clamp_min(0), relative)
    multiplier_, decrease_, relative_ = (n.to(x.device, x.dtype) for n in numbers)
    return CubicStep(s.reshape(x.shape).to(x.dtype), multiplier_, decrease_, products, relative_)


@method(
    cubic_newton_step,
    "dense",
    mode="as the Hessian's method",
    source="Nesterov & Polyak 2006, §5 (eigendecomposition and a scalar equation)",
)
def dense(f: ScalarFunction, x: Tensor, regularisation: float, *, hessian_method: str | None = None) -> CubicStep:
    """Form H, decompose it, solve the secular equation. Time O(n³), memory O(n²); finds the hard case."""
    n = x.numel()
    g = check_finite(gradient(f, x).reshape(n).double(), "f: its gradient at x")
    h = derivative_tensor(f, x, 2, method=hessian_method).reshape(n, n).double()
    h = check_finite((h + h.T) / 2, "f: its Hessian at x")
    values, vectors = torch.linalg.eigh(h)
    y, multiplier = solve_diagonal(values, vectors.T @ g, regularisation)
    s = vectors @ y
    return _result(s, h @ s, g, multiplier, regularisation, x, 0)


@method(
    cubic_newton_step,
    "lanczos",
    mode="as the Hessian-vector product's method",
    source="Cartis, Gould & Toint 2011, §6.2 (minimisation over growing Krylov spaces)",
)
def lanczos(
    f: ScalarFunction,
    x: Tensor,
    regularisation: float,
    *,
    hvp_method: str = LINEARISED,
    relative_tolerance: float | None = None,
    max_iterations: int | None = None,
) -> CubicStep:
    """Minimise over the Krylov space of H and g, by Hessian-vector products; H is never formed.

    Full reorthogonalisation: memory n numbers an iteration. Ends where the model's gradient is below
    ``relative_tolerance`` ‖g‖, or at n iterations, where the space is exhausted. In the hard case the minimiser over
    the Krylov space is not that over ℝⁿ; where g = 0 a fixed random vector starts the space instead.
    """
    n = x.numel()
    g = check_finite(gradient(f, x).reshape(n).double(), "f: its gradient at x")
    eps = torch.finfo(x.dtype).eps
    tolerance = eps if relative_tolerance is None else relative_tolerance
    limit = min(n, n if max_iterations is None else check_positive(max_iterations, "max_iterations"))
    size = torch.linalg.vector_norm(g)
    start = g if float(size) > 0 else torch.randn(n, generator=torch.Generator().manual_seed(0)).to(g)
    basis = [start / torch.linalg.vector_norm(start)]
    diagonal: list[float] = []
    off: list[float] = []
    y, multiplier, products = g.new_zeros(1), 0.0, 0
    with HessianOperator(f, x, method=hvp_method) as hessian:
        for _ in range(limit):
            w = check_finite(hessian.matvec(basis[-1].to(x.dtype)).double(), "f: a product with its Hessian at x")
            products += 1
            diagonal.append(float(w @ basis[-1]))
            q = torch.stack(basis)
            # Twice is enough (Parlett 1998, §6.9).
            for _ in range(2):
                w = w - q.T @ (q @ w)
            t = torch.diag(g.new_tensor(diagonal))
            if off:
                t = t + torch.diag(g.new_tensor(off), 1) + torch.diag(g.new_tensor(off), -1)
            values, vectors = torch.linalg.eigh(t)
            y, multiplier = solve_diagonal(values, vectors.T @ (q @ g), regularisation)
            y = vectors @ y
            beta = float(torch.linalg.vector_norm(w))
            # The model's gradient at s = Qᵀy is β y_j times the next basis vector.
            small = float(size) > 0 and beta * abs(float(y[-1])) <= tolerance * float(size)
            if small or beta <= eps * float(t.abs().max()):
                break
            if len(basis) < limit:
                off.append(beta)
                basis.append(w / beta)
        s = torch.stack(basis[: len(diagonal)]).T @ y
        hs = hessian.matvec(s.to(x.dtype)).double()
    return _result(s, hs, g, multiplier, regularisation, x, products + 1)


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

    x: Tensor
    value: float
    gradient_norm: float
    multiplier: float
    regularisation: float
    iterations: int
    products: int
    status: str


def _out_of_saddle(f: ScalarFunction, x: Tensor, regularisation: float, found: CubicStep, bent: float) -> CubicStep:
    """The step that leaves a strict saddle which a Krylov space of the gradient does not see, or ``found``.

    At g = 0 the cubic model's minimiser is along the eigenvector of the smallest eigenvalue h < 0, with λ = −h.
    """
    with HessianOperator(f, x) as hessian:
        pairs = extreme_eigenpairs(hessian, which="smallest")
        products, lowest, u = found.products + hessian.products, float(pairs.values[0]), pairs.vectors[:, 0].double()
        if lowest >= -bent:
            return found._replace(products=products)
        g = hessian.gradient.double()
    length = -2 * lowest / regularisation
    s = u * (-length if float(g @ u) > 0 else length)
    return _result(s, lowest * s, g, -lowest, regularisation, x, products)


def minimize_cubic_newton(
    f: ScalarFunction,
    x0: Tensor,
    *,
    step_method: str = "dense",
    regularisation: float = 1.0,
    gradient_tolerance: float | None = None,
    curvature_tolerance: float | None = None,
    max_iterations: int = 200,
) -> CubicResult:
    """Minimise f by cubic Newton steps with adaptive M (Cartis, Gould & Toint 2011, algorithm 2.1, η = 0.1, 0.9).

    A step is taken where f falls by at least a tenth of the model's decrease; M is doubled where it does not and halved
    where it falls by nine tenths. Converges to points of small gradient and (nearly) positive semidefinite Hessian: at
    a stationary point a last step tells whether it is a strict saddle; where the step comes from a Krylov space, which
    may not contain the direction down, by the smallest eigenvalue from a random start.

    Args:
        f: function of a tensor shaped like x0, returning a 0-dimensional tensor.
        x0: the start, any shape, a real floating dtype.
        step_method: a method of ``cubic_newton_step``.
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
    function = scalar_function(f)
    x = check_point(x0).clone()
    check_positive(max_iterations, "max_iterations")
    eps = torch.finfo(x.dtype).eps
    flat = eps**0.5 if gradient_tolerance is None else gradient_tolerance
    bent = eps**0.25 if curvature_tolerance is None else curvature_tolerance
    m, products, status = float(regularisation), 0, "max_iterations"
    with torch.no_grad():
        value = float(function(x))
    slope, multiplier, steps = math.inf, 0.0, 0
    while steps < max_iterations:
        slope = float(torch.linalg.vector_norm(gradient(function, x)))
        if not (math.isfinite(slope) and math.isfinite(value)):
            status = "not_finite"
            break
        try:
            found: CubicStep = cubic_newton_step(function, x, m, method=step_method)
            if slope <= flat and step_method != "dense" and float(found.multiplier) <= bent:
                found = _out_of_saddle(function, x, m, found, bent)
        except FloatingPointError:
            status = "not_finite"
            break
        steps += 1
        products += found.products
        multiplier = float(found.multiplier)
        if slope <= flat and multiplier <= bent:
            status = "converged"
            break
        with torch.no_grad():
            following = x + found.step
            reached = float(function(following))
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
    return CubicResult(x, value, slope, multiplier, m, steps, products, status)
