"""Stochastic estimators of traces and diagonals of symmetric operators, each with its standard error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hograd_core._checks import check_positive
from hograd_core._entrance import entrance
from hograd_core.curvature._precision import precision, widen
from hograd_core.curvature._probes import draw, probe_generator
from hograd_core.curvature.linear_operator import SymmetricOperator


@dataclass(frozen=True)
class Estimate:
    """A stochastic estimate, in the operator's dtype (float32 for a half-precision operator).

    Attributes:
        value: 0-dimensional for a trace, (n,) for a diagonal.
        standard_error: estimated standard deviation of ``value``, same shape; NaN where a single probe
            leaves it unknown, 0 where the estimate is exact up to rounding.
        products: matrix-vector products spent.
    """

    value: Tensor
    standard_error: Tensor
    products: int


def _columns(operator: SymmetricOperator, matrix: Tensor) -> Tensor:
    return torch.stack([operator.matvec(column) for column in matrix.unbind(1)], 1)


def _mean(samples: Tensor, products: int) -> Estimate:
    """Mean over the last axis and the standard error of that mean."""
    count = samples.shape[-1]
    if count == 1:
        return Estimate(samples[..., 0], torch.full_like(samples[..., 0], float("nan")), products)
    return Estimate(samples.mean(-1), samples.std(-1) / count**0.5, products)


@entrance
def hutchinson_trace(
    operator: SymmetricOperator,
    *,
    probes: int = 32,
    distribution: str = "rademacher",
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Trace of A as the mean of z^T A z over random z with E[z z^T] = I (Hutchinson 1990, §2).

    Unbiased; with Rademacher probes the variance is 2 sum of A_ij^2 over i != j, divided by ``probes``. Cost:
    ``probes`` products, memory of one.

    Args:
        operator: the symmetric operator A.
        probes: number of probes, >= 1.
        distribution: "rademacher", "normal" or "sphere".
        seed: seed of the probes; None: other probes at every call, from torch's global generator.
        generator: source of randomness in place of the seed.

    Returns:
        The estimate and its standard error.
    """
    probes = check_positive(probes, "probes")
    operator = widen(operator)
    z = draw(distribution, operator.n, probes, probe_generator(seed, generator), operator)
    samples = torch.stack([column @ operator.matvec(column) for column in z.unbind(1)])
    return _mean(samples, probes)


@entrance
def hutch_plus_plus(
    operator: SymmetricOperator,
    *,
    products: int = 30,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Trace by Hutch++ (Meyer, Musco, Musco & Woodruff 2021, algorithm 1).

    A third of the products sketches the range of A, whose part of the trace is then exact (another third);
    Hutchinson's estimator serves the remainder. Relative error O(1/products) on positive semi-definite A
    where Hutchinson's is O(1/sqrt(products)). Cost: ``products`` products and O(n products^2) for the QR;
    memory 2 n products / 3.

    Args:
        operator: the symmetric operator A.
        products: budget of matrix-vector products, >= 3; rounded down to a multiple of 3 and capped at
            what gives the exact trace.
        seed: seed of the probes; None: other probes at every call, from torch's global generator.
        generator: source of randomness in place of the seed.

    Returns:
        The estimate and its standard error (that of the remainder).

    Raises:
        ValueError: fewer than 3 products.
    """
    products = check_positive(products, "products")
    if products < 3:
        raise ValueError(f"products: got {products}, expected at least 3 (sketch, range, remainder)")
    source = probe_generator(seed, generator)
    operator = widen(operator)
    third = min(products // 3, operator.n)
    q, _ = torch.linalg.qr(_columns(operator, draw("rademacher", operator.n, third, source, operator)))
    captured = (q * _columns(operator, q)).sum()
    z = draw("rademacher", operator.n, third, source, operator)
    z = z - q @ (q.T @ z)
    remainder = _mean((z * _columns(operator, z)).sum(0), 3 * third)
    error = torch.zeros_like(captured) if third == operator.n else remainder.standard_error
    return Estimate(captured + remainder.value, error, 3 * third)


@entrance
def xtrace(
    operator: SymmetricOperator,
    *,
    products: int = 30,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Trace by XTrace (Epperly, Tropp & Webber 2024, algorithm 1.1 with the normalisation of §2.3).

    With m = products / 2 probes w_i, every probe is at once part of the sketch for the others and the sample
    of the remainder left by them:
    t_i = tr(Q_i^T A Q_i) + c_i w_i^T (I - Q_i Q_i^T) A (I - Q_i Q_i^T) w_i, Q_i an orthonormal basis of the range of
    A [w_j, j != i], c_i = (n - m + 1) / |(I - Q_i Q_i^T) w_i|^2; the estimate is the mean of the t_i. Q_i comes from
    one QR by a rank-one change. Cost: ``products`` products and O(n m^2); memory 4 n m.

    Args:
        operator: the symmetric operator A.
        products: budget of matrix-vector products, >= 4; an odd one is rounded down, and it is capped at 2 n.
        seed: seed of the probes; None: other probes at every call, from torch's global generator.
        generator: source of randomness in place of the seed.

    Returns:
        The estimate and its standard error, std(t_i) / sqrt(m) (§2.2 there: an indication, for the t_i are
        exchangeable, not independent).

    Raises:
        ValueError: fewer than 4 products.
    """
    products = check_positive(products, "products")
    if products < 4:
        raise ValueError(f"products: got {products}, expected at least 4 (two probes)")
    operator = widen(operator)
    n = operator.n
    m = min(products // 2, n)
    omega = draw("sphere", n, m, probe_generator(seed, generator), operator)
    y = _columns(operator, omega)
    q, r = torch.linalg.qr(y)
    z = _columns(operator, q)
    h = q.T @ z
    diagonal = r.diagonal().abs()
    if m == n or bool(diagonal.min() <= m * precision(operator) * diagonal.max()):
        # The sketch holds the range of A to rounding, and no probe can be left out of a singular R. What remains
        # outside has Frobenius norm of about min |R_ii|, hence trace of at most sqrt(n - m) times that.
        return Estimate(h.trace(), diagonal.min() * (n - m) ** 0.5, 2 * m)
    # Column i of s spans, within Q, the direction that leaving out probe i removes.
    s = torch.linalg.solve_triangular(r, torch.eye(m, dtype=r.dtype, device=r.device), upper=True).T
    s = s / torch.linalg.vector_norm(s, dim=0)
    w = q.T @ omega
    kept = w - s * (s * w).sum(0)
    left = omega - q @ kept
    remainder = (left * (y - z @ kept)).sum(0)
    scale = (n - m + 1) / (left * left).sum(0)
    samples = h.trace() - (s * (h @ s)).sum(0) + scale * remainder
    return _mean(samples, 2 * m)


@entrance
def stochastic_diagonal(
    operator: SymmetricOperator,
    *,
    probes: int = 32,
    distribution: str = "rademacher",
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Diagonal of A as sum of z * A z over sum of z * z (Bekas, Kokiopoulou & Saad 2007, eq. 2).

    With Rademacher probes the denominator is the number of probes, the estimate is unbiased, and the variance
    of entry i is the sum of A_ij^2 over j != i, divided by ``probes``. With normal probes the ratio has a bias
    of order 1/probes, and the standard error is that of the ratio (delta method). Cost: ``probes`` products;
    memory 3 n beyond that of a product.

    Args:
        operator: the symmetric operator A.
        probes: number of probes, >= 1.
        distribution: "rademacher", "normal" or "sphere".
        seed: seed of the probes; None: other probes at every call, from torch's global generator.
        generator: source of randomness in place of the seed.

    Returns:
        The estimate, (n,), and its standard error per entry.
    """
    probes = check_positive(probes, "probes")
    source = probe_generator(seed, generator)
    operator = widen(operator)
    total = torch.zeros(operator.n, dtype=operator.dtype, device=operator.device)
    weight, squares, cross, weights2 = (torch.zeros_like(total) for _ in range(4))
    for _ in range(probes):
        # One probe at a time: probes may outnumber what memory holds.
        z = draw(distribution, operator.n, 1, source, operator)[:, 0]
        sample, z2 = z * operator.matvec(z), z * z
        total += sample
        weight += z2
        squares += sample * sample
        cross += sample * z2
        weights2 += z2 * z2
    value = total / weight
    if probes == 1:
        return Estimate(value, torch.full_like(value, float("nan")), 1)
    residual = (squares - 2 * value * cross + value * value * weights2).clamp_min(0)
    return Estimate(value, (residual * probes / (probes - 1)).sqrt() / weight, probes)
