"""The cubic model gᵀs + sᵀHs/2 + (M/6) ‖s‖³ minimised globally: in the eigenbasis of H, and in growing subspaces."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hograd_core.solvers._conjugate_gradient import norm_of


def solve_diagonal(eigenvalues: Tensor, g: Tensor, regularisation: float) -> tuple[Tensor, float]:
    """Minimise gᵀy + Σ h_i y_i²/2 + (M/6) ‖y‖³, the cubic model in the eigenbasis of H.

    Solves the secular equation ‖y(λ)‖ = 2λ/M, y_i(λ) = −g_i/(h_i + λ), for μ = λ − max(0, −h_1) to relative precision:
    near the hard case μ is a rounding of λ, and yet decides how long y is. Newton's method on 1/‖y‖ = M/(2λ) (Moré &
    Sorensen 1983, §3; Cartis, Gould & Toint 2011, §6.1) inside a bracket that is halved on the logarithmic scale. In
    the hard case (no part of g along the lowest eigenvector, y(λ) too short at μ = 0) a multiple of that eigenvector
    completes the step, whose sign is free.

    Args:
        eigenvalues: h, ascending, shape (n,), float64.
        g: shape (n,), float64.
        regularisation: M > 0.

    Returns:
        y, and λ = M‖y‖/2.
    """
    m, eps = regularisation, torch.finfo(torch.float64).eps
    shift = max(0.0, -float(eigenvalues[0]))
    gaps = eigenvalues + shift
    size = norm_of(g)
    if size == 0 and shift == 0:
        return torch.zeros_like(g), 0.0
    # eps² of g is below all rounding, and what it would be divided by may underflow.
    g = torch.where(g.abs() > eps * eps * size, g, 0.0)

    def at(mu: float) -> Tensor:
        return torch.where(g == 0, 0.0, -g / torch.where(g == 0, 1.0, gaps + mu))

    if shift and not bool(((g != 0) & (gaps == 0)).any()):
        y = at(0.0)
        rest = (2 * shift / m) ** 2 - float(y @ y)
        if rest >= 0:
            y[0] = math.sqrt(rest)
            return y, shift
    # ‖y‖ (h_1 + λ) <= ‖g‖ bounds μ from above; |g_i| / (gap_i + μ) <= ‖y‖ = 2λ/M at gap 0 from below.
    high = math.sqrt(m * size / 2)
    low = m * norm_of(g[gaps == 0]) / (2 * (shift + high))
    mu = high
    for _ in range(400):
        y = at(mu)
        norm, multiplier = norm_of(y), shift + mu
        low, high = (mu, high) if norm * m > 2 * multiplier else (low, mu)
        slope = float((y * y) @ (1 / (gaps + mu))) / norm**3 + m / (2 * multiplier**2)
        newton = mu - (1 / norm - m / (2 * multiplier)) / slope
        middle = math.sqrt(low) * math.sqrt(high) if low else high / 16
        following = newton if low < newton < high else middle
        if abs(following - mu) <= eps * mu or high - low <= 2 * eps * high or high < 1e-300:
            break
        mu = following
    return at(mu), shift + mu


def minimise_over_subspaces(
    product: Callable[[Tensor], Tensor],
    g: Tensor,
    start: Tensor,
    regularisation: float,
    lowest: Callable[[], tuple[float, Tensor]],
    *,
    tolerance: float,
    eps: float,
    limit: int,
) -> tuple[Tensor, Tensor, float]:
    """Minimise the cubic model over subspaces that grow by the model's gradient, from ``start`` on.

    From g that is the Krylov space of H and g (Cartis, Gould & Toint 2011, §6.2). A minimiser over it is one over ℝⁿ if
    and only if H + λI ⪰ 0: the lowest eigenpair decides, and where it says no, its vector joins the space.

    Args:
        product: s -> H s, float64.
        g: (n,), float64.
        start: the first direction, not 0.
        regularisation: M > 0.
        lowest: () -> smallest eigenvalue of H and its unit vector.
        tolerance: on the model's gradient relative to ‖g‖.
        eps: precision of the products.
        limit: most dimensions.

    Returns:
        s, H s and λ.
    """
    basis, images = [start / norm_of(start)], []
    size = norm_of(g)
    checked = 0
    while True:
        images.append(product(basis[-1]))
        q, hq = torch.stack(basis), torch.stack(images)
        t = q @ hq.T
        values, vectors = torch.linalg.eigh((t + t.T) / 2)
        y, multiplier = solve_diagonal(values, vectors.T @ (q @ g), regularisation)
        y = vectors @ y
        s, hs = q.T @ y, hq.T @ y
        r = hs + multiplier * s + g
        # H's own rounding; below it no direction has a meaning.
        noise = 4 * eps * float(values.abs().max()) * max(norm_of(s), 1.0 if size == 0 else 0.0)
        following = _orthogonal(r, q) if norm_of(r) > max(tolerance * size, noise) else None
        if len(basis) >= limit or (following is None and (checked == 2 or len(basis) == len(g))):
            return s, hs, multiplier
        if following is None:
            checked += 1
            value, u = lowest()
            if value >= -multiplier - max(1e-10, 64 * eps) * abs(value):
                return s, hs, multiplier
            following = _orthogonal(u, q)
            if following is None:
                return s, hs, multiplier
        basis.append(following)


def _orthogonal(v: Tensor, q: Tensor) -> Tensor | None:
    """The unit vector along the part of v that is orthogonal to the rows of q; None where that is rounding."""
    size = norm_of(v)
    # Twice is enough (Parlett 1998, §6.9).
    for _ in range(2):
        v = v - q.T @ (q @ v)
    length = norm_of(v)
    if length <= 1e-12 * size:
        return None
    v = v / length
    v = v - q.T @ (q @ v)
    return v / norm_of(v)
