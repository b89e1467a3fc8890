"""The Lanczos process with full reorthogonalisation, extreme eigenpairs, and spectral densities by quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hograd_core._checks import check_number, check_positive, not_finite
from hograd_core._entrance import entrance
from hograd_core._unsupported import UnsupportedError
from hograd_core.curvature._precision import precision, solver_tolerance, widen
from hograd_core.curvature._probes import draw, probe_generator
from hograd_core.curvature.linear_operator import SymmetricOperator

_SMALL = 2048
"""Elements below which some more products cost less than solving a tridiagonal problem once more."""


@dataclass(frozen=True)
class Tridiagonal:
    """A Q = Q T + residual * last unit vector^T, with orthonormal Q.

    Attributes:
        diagonal: (m,) of T, in float64 on the CPU.
        off_diagonal: (m - 1,) of T, likewise.
        residual: the next off-diagonal entry; 0 where the Krylov space is invariant.
        basis: Q, (n, m), in the operator's dtype (float32 for a half-precision one) and on its device.
    """

    diagonal: Tensor
    off_diagonal: Tensor
    residual: float
    basis: Tensor

    @entrance
    def eigh(self) -> tuple[Tensor, Tensor]:
        """Ritz values, ascending, and the eigenvectors of T, in float64 on the CPU."""
        t = torch.diag(self.diagonal)
        t.diagonal(-1).copy_(self.off_diagonal)  # of a symmetric matrix the lower half is read
        values, vectors = torch.linalg.eigh(t)
        return values, vectors


def refuse_derivative(product: Tensor, where: str) -> None:
    """Raise where the product is part of a larger derivative, which the numbers read off an iteration would cut.

    Raises:
        UnsupportedError: it is.
    """
    if product.requires_grad or torch._C._functorch.is_gradtrackingtensor(product):
        raise UnsupportedError(
            where,
            "its result cannot be differentiated further, for it reads numbers off the products; use method='dense' of "
            "the operator, or differentiate a matrix of the products with torch.linalg",
        )


class LanczosProcess:
    """Lanczos step by step (Lanczos 1950; Golub & Van Loan 2013, algorithm 10.1.1), reorthogonalised.

    Every new vector is orthogonalised twice against all earlier ones ("twice is enough": Parlett 1998, §6.9), so no
    ghost eigenvalues appear. Cost of step j: one product and 8 n j operations; memory n j.

    Args:
        operator: a symmetric operator.
        start: start vector, (n,), not zero.

    Raises:
        ValueError: the start vector is zero or not finite.
    """

    def __init__(self, operator: SymmetricOperator, start: Tensor) -> None:
        self._operator = operator = widen(operator)
        if start.shape != (operator.n,):
            raise ValueError(f"start: got shape {tuple(start.shape)}, expected ({operator.n},)")
        start = start.detach().to(operator.dtype)
        # Scaled first: the squares of large entries overflow where the entries do not.
        largest = float(start.abs().max())
        if not 0 < largest < math.inf:
            raise ValueError(f"start: got norm {largest:g}, expected a finite vector that is not zero")
        start = start / largest
        self._eps = precision(operator)
        self._rows = torch.empty(min(operator.n, 16), operator.n, dtype=operator.dtype, device=operator.device)
        self._next = start / torch.linalg.vector_norm(start)
        self._alphas: list[float] = []
        self._betas: list[float] = []

    @property
    def steps(self) -> int:
        """Steps made."""
        return len(self._alphas)

    @property
    def invariant(self) -> bool:
        """Whether the Krylov space is invariant (to rounding), so that there is no further step."""
        return bool(self._betas) and self._betas[-1] == 0.0

    def step(self) -> None:
        """One product, one more column of Q.

        Raises:
            FloatingPointError: the operator returned a value that is not finite.
        """
        j = self.steps
        if j == self._rows.shape[0]:
            grown = self._rows.new_empty(min(self._operator.n, 2 * j), self._operator.n)
            grown[:j] = self._rows
            self._rows = grown
        q = self._next
        self._rows[j] = q
        rows = self._rows[: j + 1]
        product = self._operator.matvec(q)
        refuse_derivative(product, "Lanczos process")
        along = rows @ product  # the last one along q
        w = torch.addmv(product, rows.T, along, alpha=-1)
        w = torch.addmv(w, rows.T, rows @ w, alpha=-1)
        alpha, beta = float(along[-1]), float(torch.linalg.vector_norm(w))
        if not math.isfinite(alpha + beta):
            why = not_finite(product)
            raise FloatingPointError(f"operator: its product is not finite at Lanczos step {j + 1} ({why})")
        self._alphas.append(alpha)
        scale = max(max(map(abs, self._alphas)), max(self._betas, default=0.0))
        negligible = beta <= 4 * math.sqrt(self._operator.n) * self._eps * scale
        if negligible or self.steps == self._operator.n:
            beta = 0.0
        else:
            self._next = w / beta
        self._betas.append(beta)

    def tridiagonal(self) -> Tridiagonal:
        """The factorisation so far."""
        return Tridiagonal(
            torch.tensor(self._alphas, dtype=torch.float64, device="cpu"),
            torch.tensor(self._betas[:-1], dtype=torch.float64, device="cpu"),
            self._betas[-1],
            self._rows[: self.steps].T,
        )


@entrance
def lanczos(operator: SymmetricOperator, start: Tensor, steps: int) -> Tridiagonal:
    """Up to ``steps`` Lanczos steps from ``start``; fewer where the Krylov space turns out invariant.

    Args:
        operator: a symmetric operator.
        start: start vector, (n,), not zero.
        steps: most steps, >= 1; capped at n.

    Returns:
        The factorisation.
    """
    process = LanczosProcess(operator, start)
    for _ in range(min(check_positive(steps, "steps"), operator.n)):
        process.step()
        if process.invariant:
            break
    return process.tridiagonal()


@dataclass(frozen=True)
class Eigenpairs:
    """Extreme eigenpairs of a symmetric operator.

    Attributes:
        values: (k,), ascending.
        vectors: (n, k), orthonormal columns.
        residuals: (k,), norms of A u - value u; each value lies within its residual of an eigenvalue.
        products: products made.
        converged: whether every residual is within the tolerance.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    converged: bool


@entrance
def extreme_eigenpairs(
    operator: SymmetricOperator,
    count: int = 1,
    *,
    which: str = "both",
    tolerance: float | None = None,
    max_steps: int | None = None,
    seed: int | None = 0,
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    """Extreme eigenpairs by the Lanczos process (Golub & Van Loan 2013, §10.1).

    In exact arithmetic a single start vector sees one eigenvector of a multiple eigenvalue: values are found,
    multiplicities are not (``lobpcg`` finds them). Cost for m steps: m products, 4 n m² operations; memory n m.

    Args:
        operator: a symmetric operator.
        count: eigenpairs wanted, from each end where ``which`` is "both".
        which: "smallest", "largest" (algebraically) or "both".
        tolerance: residual relative to the largest Ritz value; default max(eps^0.75, 16 eps). The error of a value is
            at most its residual, and about residual² / gap to the rest of the spectrum.
        max_steps: most steps; default n.
        seed: seed of the start vector, which the pairs do not depend on but for rounding: by default the same one at
            every call; None draws one from torch's global generator.
        generator: source of randomness in place of the seed.

    Returns:
        The pairs; fewer than asked for where the Krylov space ended before.

    Raises:
        ValueError: unknown ``which``, or more pairs than dimensions.
    """
    operator, count = widen(operator), check_positive(count, "count")
    if which not in ("smallest", "largest", "both"):
        raise ValueError(f"which: got {which!r}, expected smallest, largest or both")
    if count > operator.n:
        raise ValueError(f"count: got {count}, expected at most n = {operator.n}")
    limit = min(operator.n, operator.n if max_steps is None else check_positive(max_steps, "max_steps"))
    if tolerance is not None:
        tolerance = check_number(tolerance, "tolerance", minimum=0.0)
    else:
        tolerance = solver_tolerance(precision(operator))
    start = draw("normal", operator.n, 1, probe_generator(seed, generator), operator)[:, 0]
    process = LanczosProcess(operator, start)
    while True:
        process.step()
        done = process.invariant or process.steps >= limit
        # Solving the m x m problem at every step would cost more than the products, which are small where n is; m grows
        # by an eighth between.
        if not done and process.steps % max(8 if operator.n < _SMALL else 4, process.steps // 8):
            continue
        factorisation = process.tridiagonal()
        values, vectors = factorisation.eigh()
        low, high = {"smallest": (count, 0), "largest": (0, count), "both": (count, count)}[which]
        chosen = sorted({*range(min(low, process.steps)), *range(max(process.steps - high, 0), process.steps)})
        residuals = (factorisation.residual * vectors[-1, chosen]).abs()
        scale = float(values.abs().max())
        converged = bool((residuals <= tolerance * scale).all()) and (process.invariant or process.steps >= low + high)
        if done or converged:
            found, weights, bounds = (
                t.to(operator.device, operator.dtype) for t in (values[chosen], vectors[:, chosen], residuals)
            )
            return Eigenpairs(found, factorisation.basis @ weights, bounds, process.steps, converged)


@dataclass(frozen=True)
class SpectralDensity:
    """A stochastic Lanczos quadrature of the spectral density (1/n) sum of delta(t - lambda_i).

    Attributes:
        nodes: (probes, steps) Ritz values; a probe that ended early is padded with its last node at weight 0.
        weights: (probes, steps), each row summing to 1.
        products: products made.
    """

    nodes: Tensor
    weights: Tensor
    products: int

    @entrance
    def density(self, grid: Tensor, width: float) -> tuple[Tensor, Tensor]:
        """The density convolved with a normal of standard deviation ``width``, and its standard error, on a grid.

        The error is that of the mean over probes; NaN for a single probe. It does not contain the bias of the
        quadrature, which falls off exponentially in steps * width / spread (Ubaru, Chen & Saad 2017, theorem 4.1).
        """
        kernels = gaussian(grid[:, None, None], self.nodes.to(grid.dtype), width)
        each = (kernels * self.weights.to(grid.dtype)).sum(-1)
        return self._mean(each)

    @entrance
    def mean_of(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(1/n) tr phi(A) and its standard error, from ``values`` = phi(nodes)."""
        return self._mean((values * self.weights).sum(-1))

    def _mean(self, each: Tensor) -> tuple[Tensor, Tensor]:
        probes = each.shape[-1]
        spread = each.std(-1) / probes**0.5 if probes > 1 else torch.full_like(each[..., 0], float("nan"))
        return each.mean(-1), spread


def gaussian(t: Tensor, centre: Tensor, width: float) -> Tensor:
    """Normal density of standard deviation ``width``."""
    return torch.exp(-0.5 * ((t - centre) / width) ** 2) / (width * math.sqrt(2 * math.pi))


@entrance
def spectral_density(
    operator: SymmetricOperator,
    *,
    probes: int = 8,
    steps: int = 64,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> SpectralDensity:
    """Stochastic Lanczos quadrature (Golub & Meurant 2010, ch. 6; Ubaru, Chen & Saad 2017, algorithm 1).

    From each probe z, uniform on the sphere, the eigenvalues of T are the nodes and the squared first components
    of its eigenvectors the weights of a Gauss quadrature of the measure sum of (u_i^T z)² delta(t - lambda_i), whose
    mean over z is the spectral density. Cost: probes * steps products; memory n * steps.

    Args:
        operator: a symmetric operator.
        probes: number of start vectors, >= 1.
        steps: Lanczos steps for each, >= 1; exact for polynomials of degree 2 steps - 1; capped at n.
        seed: seed of the probes; None: other probes at every call, from torch's global generator.
        generator: source of randomness in place of the seed.

    Returns:
        Nodes and weights in float64 on the CPU.
    """
    probes = check_positive(probes, "probes")
    operator, source = widen(operator), probe_generator(seed, generator)
    width = min(check_positive(steps, "steps"), operator.n)
    nodes = torch.empty(probes, width, dtype=torch.float64, device="cpu")
    weights = torch.zeros(probes, width, dtype=torch.float64, device="cpu")
    products = 0
    for i in range(probes):
        start = draw("sphere", operator.n, 1, source, operator)[:, 0]
        values, vectors = lanczos(operator, start, width).eigh()
        nodes[i] = values[-1]
        nodes[i, : len(values)] = values
        weights[i, : len(values)] = vectors[0].square()
        products += len(values)
    return SpectralDensity(nodes, weights, products)
