"""Operators on the Hessian's spectrum: extreme eigenvalues and the spectral density."""

from __future__ import annotations

from typing import Any

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
from hograd_core._entrance import entrance, kept
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core.curvature._dense import dense_matrix
from hograd_core.curvature._lanczos import (
    Eigenpairs,
    extreme_eigenpairs,
    gaussian,
    refuse_derivative,
    spectral_density,
)
from hograd_core.curvature._precision import precision, sampling, solver_tolerance, widen, widened
from hograd_core.curvature._probes import draw, probe_generator
from hograd_core.curvature.linear_operator import LINEARISED, HessianOperator, SymmetricOperator
from hograd_core.derivatives.derivative_tensor import derivative_tensor
from hograd_core.prepare import Prepared, prepare


def _iterative_tolerance(eps: float, order: int) -> float:
    """The residual bounds the error of an eigenvalue in the worst case; 30 covers the rounding of the products."""
    return min(0.5, 30 * solver_tolerance(eps))


@operator(result="2", default="lanczos", order=2)
def hessian_extreme_eigenvalues(f: Function[T], x: T, **how: Unpack[How]) -> Tensor:
    """The smallest and the largest eigenvalue of the Hessian of f at x.

    ``extreme_eigenpairs`` on a ``HessianOperator`` gives more pairs, vectors and residuals.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device.

    Returns:
        A detached tensor (smallest, largest), in the dtype and on the device of x.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional.
        RuntimeError: an iterative method did not converge within its steps.
        FloatingPointError: the Hessian at x, or a product with it, is not finite.
    """
    return to_method(scalar_function(f), check_point(x))


@method(
    hessian_extreme_eigenvalues,
    "lanczos",
    mode="reverse over reverse, one product a step",
    source="Lanczos 1950; Golub & Van Loan 2013, §10.1; full reorthogonalisation",
    tolerance=_iterative_tolerance,
)
def lanczos_extremes(
    f: ScalarFunction,
    x: Tensor,
    *,
    tolerance: float | None = None,
    max_steps: int | None = None,
    seed: int | None = 0,
    generator: torch.Generator | None = None,
    hvp_method: str = LINEARISED,
    preparation: Any = "eager",
) -> Tensor:
    """Ritz values once their residuals fall below ``tolerance`` (default max(eps^0.75, 16 eps)) of the largest.

    Time: m products and 4 n m² operations for m steps; memory n m. Symmetric both ends at once.
    """
    with HessianOperator(f, x, method=hvp_method, preparation=preparation) as hessian:
        pairs = extreme_eigenpairs(hessian, tolerance=tolerance, max_steps=max_steps, seed=seed, generator=generator)
    if not pairs.converged:
        raise RuntimeError(
            f"hessian_extreme_eigenvalues[lanczos]: residuals {pairs.residuals.tolist()} after {pairs.products} steps; "
            "raise max_steps or tolerance"
        )
    return pairs.values[[0, -1]].to(x.dtype)


@method(
    hessian_extreme_eigenvalues,
    "dense",
    mode="the full Hessian, then LAPACK",
    source="derivative_tensor of order 2 and torch.linalg.eigvalsh",
)
def dense_extremes(
    f: ScalarFunction, x: Tensor, *, hessian_method: str | None = None, preparation: Any = "eager"
) -> Tensor:
    """Both ends of the full spectrum. Time: the Hessian and O(n³); memory: 2 n².

    ``preparation``: by name, or what ``prepare`` returned for ``hessian`` or ``hvp`` of f, for many points.
    """
    return _eigenvalues(f, x, hessian_method, preparation)[[0, -1]].to(x.dtype)


@method(
    hessian_extreme_eigenvalues,
    "lobpcg",
    mode="reverse over reverse, one product an iteration and end of the spectrum",
    source="Knyazev 2001; torch.lobpcg on a matrix-free operator",
    tolerance=_iterative_tolerance,
)
def lobpcg_extremes(
    f: ScalarFunction,
    x: Tensor,
    *,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    seed: int | None = 0,
    generator: torch.Generator | None = None,
    hvp_method: str = LINEARISED,
    preparation: Any = "eager",
) -> Tensor:
    """torch.lobpcg at each end, in memory of a few n-vectors. Below n = 3, where it is undefined: dense."""
    with HessianOperator(f, x, method=hvp_method, preparation=preparation) as hessian:
        if hessian.n < 3:
            values: Tensor = torch.linalg.eigvalsh(check_finite(widened(dense_matrix(hessian)), "f: its Hessian at x"))
            return values[[0, -1]].to(x.dtype)
        source = probe_generator(seed, generator)
        pairs = [
            lobpcg(hessian, largest=end, tolerance=tolerance, max_iterations=max_iterations, generator=source)
            for end in (False, True)
        ]
    for pair in pairs:
        if not pair.converged:
            raise RuntimeError(
                f"hessian_extreme_eigenvalues[lobpcg]: residual {float(pair.residuals[0]):.3g} after {pair.products} "
                "products; raise max_iterations or tolerance"
            )
    return torch.cat([pair.values for pair in pairs]).to(x.dtype)


class _MatrixFree(torch.Tensor):
    """An n x n tensor without storage, whose product with a block is the operator's: what torch.lobpcg needs."""

    operator: SymmetricOperator
    products: int

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, operator: SymmetricOperator) -> _MatrixFree:
        made: _MatrixFree = torch.Tensor._make_wrapper_subclass(
            cls, (operator.n, operator.n), dtype=operator.dtype, device=operator.device
        )
        made.operator = operator
        made.products = 0
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is not torch.ops.aten.mm.default:
            raise NotImplementedError(f"{func} on a matrix-free operator: only A @ block is defined")
        matrix, block = args
        matrix.products += block.shape[1]
        # Below autograd's dispatch keys, where this is called, a backward pass that meets PyTorch's lazy zeros (the
        # derivative of a sign, say) crashes the process; the keys as they were outside do not.
        with torch.overrides.enable_reentrant_dispatch():
            product = torch.stack([matrix.operator.matvec(column) for column in block.unbind(1)], 1)
        refuse_derivative(product, "torch.lobpcg")
        # torch.lobpcg hands NaN to LAPACK, which may crash the process.
        return check_finite(product, "operator: its product")


@entrance
def lobpcg(
    operator: SymmetricOperator,
    *,
    largest: bool = True,
    count: int = 1,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    seed: int | None = 0,
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    """Eigenpairs at one end by torch.lobpcg (Knyazev 2001), matrix-free; sees multiplicities up to ``count``.

    Args:
        operator: a symmetric operator of dimension n >= 3 * count.
        largest: which end of the spectrum.
        count: eigenpairs wanted.
        tolerance: residual relative to the operator's scale, |A z| / |z| of a random block z or the largest value
            found; default max(eps^0.75, 16 eps).
        max_iterations: most iterations, of ``count`` products each; default 20 n.
        seed: seed of the start block, which the pairs do not depend on but for rounding: by default the same one at
            every call; None draws one from torch's global generator.
        generator: source of randomness in place of the seed.

    Returns:
        The pairs, values ascending; ``converged`` by residuals computed anew.

    Raises:
        ValueError: n < 3 * count.
        FloatingPointError: a product is not finite.
    """
    operator, count = widen(operator), check_positive(count, "count")
    if operator.n < 3 * count:
        raise ValueError(f"count: got {count}, expected at most n/3 = {operator.n // 3}; use a dense solver")
    if tolerance is not None:
        tolerance = check_number(tolerance, "tolerance", minimum=0.0)
    else:
        tolerance = solver_tolerance(precision(operator))
    iterations = 20 * operator.n if max_iterations is None else check_positive(max_iterations, "max_iterations")
    matrix = _MatrixFree(operator)
    start = draw("normal", operator.n, count, probe_generator(seed, generator), operator)
    # Its own criterion is residual / (|A| + |value|), |A| by a random block: half of the tolerance is as strict.
    values, vectors = torch.lobpcg(matrix, k=count, X=start, largest=largest, niter=iterations, tol=tolerance / 2)
    order = values.argsort()
    values, vectors = values[order], vectors[:, order]
    norms = torch.linalg.vector_norm(matrix @ vectors - vectors * values, dim=0)
    # The scale of A, which the values at this end may be far below; a random block underestimates it.
    typical = torch.linalg.matrix_norm(matrix @ start) / torch.linalg.matrix_norm(start)
    converged = bool((norms <= tolerance * torch.maximum(values.abs().max(), typical)).all())
    return Eigenpairs(values, vectors, norms, matrix.products, converged)


def _eigenvalues(f: ScalarFunction, x: Tensor, hessian_method: str | None = None, preparation: Any = "eager") -> Tensor:
    if isinstance(preparation, Prepared):
        if preparation.is_product_of(f):
            found = preparation.bind(x)(
                torch.eye(x.numel(), dtype=x.dtype, device=x.device).view(-1, *x.shape), in_dims=0
            )
        elif preparation.is_hessian_of(f):
            found = preparation(x)
        else:
            raise ValueError(
                "preparation: got a kernel of another function or operator, expected prepare(hessian, f, x) or "
                "prepare(hvp, f, x) of this f, or a preparation by name"
            )
    elif preparation == "eager" or kept():
        found = derivative_tensor(f, x, 2, method=hessian_method, strict=True)
    else:
        found = prepare(derivative_tensor, f, x, order=2, method=hessian_method, preparation=preparation)(x)
    matrix = widened(found.reshape(x.numel(), -1))
    values: Tensor = torch.linalg.eigvalsh(check_finite((matrix + matrix.T) / 2, "f: its Hessian at x"))
    return values


@operator(result="2 x points", default="slq", order=2)
def hessian_spectral_density(
    f: ScalarFunction, x: Tensor, points: int = 64, width: float = 0.05, **how: Unpack[How]
) -> Tensor:
    """The density of the Hessian's eigenvalues, (1/n) sum of N(t; lambda_i, sigma²), on a grid.

    The grid has ``points`` equidistant points from 3 sigma below the smallest to 3 sigma above the largest eigenvalue,
    sigma = ``width`` times the largest magnitude of an eigenvalue (``width`` for a Hessian that is zero).

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device.
        points: number of grid points, >= 2.
        width: smoothing relative to the spectral radius, > 0.

    Returns:
        A detached tensor of shape (2, points): grid and density, in the dtype and on the device of x.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional, fewer than 2 points, or a width that is not positive.
        FloatingPointError: the Hessian at x, or a product with it, is not finite.
    """
    points = check_positive(points, "points")
    if points < 2:
        raise ValueError(f"points: got {points}, expected at least 2")
    return to_method(scalar_function(f), check_point(x), points, check_number(width, "width", positive=True))


def _grid(low: float, high: float, points: int, width: float) -> tuple[Tensor, float]:
    sigma = width * (max(abs(low), abs(high)) or 1.0)
    return torch.linspace(low - 3 * sigma, high + 3 * sigma, points, dtype=torch.float64, device="cpu"), sigma


@method(
    hessian_spectral_density,
    "dense",
    mode="the full Hessian, then LAPACK",
    source="definition; torch.linalg.eigvalsh",
)
def dense_density(f: ScalarFunction, x: Tensor, points: int, width: float) -> Tensor:
    """From all eigenvalues. Time: the Hessian and O(n³); memory: 2 n²."""
    values = _eigenvalues(f, x).to("cpu", torch.float64)
    grid, sigma = _grid(float(values[0]), float(values[-1]), points, width)
    density = gaussian(grid[:, None], values, sigma).mean(1)
    return torch.stack([grid, density]).to(x.device, x.dtype)


@method(
    hessian_spectral_density,
    "slq",
    mode="reverse over reverse, one product a step and probe",
    source="Golub & Meurant 2010, ch. 6; Ghorbani, Krishnan & Xiao 2019, algorithm 1",
    exact=False,
    tolerance=sampling,
)
def slq_density(
    f: ScalarFunction,
    x: Tensor,
    points: int,
    width: float,
    *,
    probes: int = 8,
    steps: int = 64,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    hvp_method: str = LINEARISED,
    preparation: Any = "eager",
) -> Tensor:
    """Stochastic Lanczos quadrature: ``probes`` * ``steps`` products, memory n * ``steps``.

    ``spectral_density`` on a ``HessianOperator`` gives nodes, weights and the standard error over probes.
    """
    with HessianOperator(f, x, method=hvp_method, preparation=preparation) as hessian:
        quadrature = spectral_density(hessian, probes=probes, steps=steps, seed=seed, generator=generator)
    grid, sigma = _grid(float(quadrature.nodes.min()), float(quadrature.nodes.max()), points, width)
    density, _ = quadrature.density(grid, sigma)
    return torch.stack([grid, density]).to(x.device, x.dtype)
