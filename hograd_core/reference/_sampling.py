"""The truth of what is too large for it: random products of a derivative tensor, entries of a Hessian's diagonal.

A derivative tensor T is right where T·v…v is the true product for a random v, but for errors orthogonal to v (Freivalds
1977): a single entry of a matrix that is wrong by its largest one moves the product by about 1/√n of the scale. Of a
diagonal, which no product tells, entries are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hograd_core.reference._derivatives import (
    TRUTHS,
    ScalarFunction,
    TruthError,
    check_slopes,
    differentiate,
    start,
)

PRODUCTS, ENTRIES = 3, 16
_BLOCK = 2**24
"""Entries of a result that are widened to float64 at once."""


@dataclass(frozen=True)
class Sampled:
    """How far a result is from its truth in what was looked at.

    Attributes:
        error: largest deviation over its scale; infinite for another shape, NaN or infinity in the result.
        what: what was looked at, in words.
        finite: whether the truth is.
    """

    error: float
    what: str
    finite: bool = True


def _tensor(result: Tensor, f: ScalarFunction, x: Tensor, order: int, seed: int) -> Sampled:
    what = f"{PRODUCTS} random products of the result"
    n = x.numel()
    if result.shape != x.shape * order or not bool(result.isfinite().all()):
        return Sampled(math.inf, what)
    generator = torch.Generator().manual_seed(seed)
    rows, largest, worst = result.detach().reshape(n, -1), float(result.detach().abs().max()), 0.0
    for _ in range(PRODUCTS):
        v = torch.randn(x.shape, dtype=torch.float64, generator=generator)
        true = TRUTHS["derivative_vector_product"](f, x, v, order=order).value
        if not bool(true.isfinite().all()):
            return Sampled(math.inf, what, finite=False)
        step = max(1, _BLOCK // rows.shape[1])
        ours = torch.cat([_contracted(rows[i : i + step], v.flatten(), order) for i in range(0, n, step)])
        # Entries that are right to within rounding of the largest, with signs of their own, sum up to this times it.
        scale = max(largest * float(torch.linalg.vector_norm(v)) ** (order - 1), float(true.abs().max())) or 1.0
        worst = max(worst, float((ours - true.flatten()).abs().max()) / scale)
    return Sampled(worst, what)


def _contracted(part: Tensor, v: Tensor, order: int) -> Tensor:
    part = part.to("cpu", torch.float64)
    for _ in range(order - 1):
        part = part.reshape(-1, v.numel()) @ v
    return part


def _diagonal(result: Tensor, f: ScalarFunction, x: Tensor, order: int, seed: int) -> Sampled:
    check_slopes(f, x, 2)
    n = x.numel()
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:ENTRIES].tolist()
    what = f"{len(drawn)} entries drawn at random"
    if result.shape != x.shape or not bool(result.isfinite().all()):
        return Sampled(math.inf, what)
    y, point = start(f, x)
    gradient = differentiate(y, point, keep=True)
    rows = {i: differentiate(gradient[i], point, keep=False).detach() for i in drawn}
    if not all(bool(row.isfinite().all()) for row in rows.values()):
        return Sampled(math.inf, what, finite=False)
    ours = result.detach().flatten()[drawn].to("cpu", torch.float64).tolist()
    scale = max(float(row.abs().max()) for row in rows.values()) or 1.0
    return Sampled(max(abs(a - float(rows[i][i])) for a, i in zip(ours, drawn, strict=True)) / scale, what)


# By name: the truth does not import what it judges.
SAMPLED: dict[str, Callable[[Tensor, ScalarFunction, Tensor, int, int], Sampled]] = {
    "derivative_tensor": _tensor, "hessian_diagonal": _diagonal,
}  # fmt: skip


def sweeps(operator: str, numel: int, order: int) -> int:
    """Sweeps that the whole truth of an operator takes, where it can be sampled; else 0.

    Args:
        operator: canonical name.
        numel: of x.
        order: derivative order.
    """
    return int(numel ** max(order - 1, 0)) if operator in SAMPLED and order > 1 else 0


def sampled(operator: str, result: Tensor, f: ScalarFunction, x: Tensor, *, order: int = 2, seed: int = 30) -> Sampled:
    """Hold a result against samples of its truth.

    Args:
        operator: canonical name, one for which :func:`sweeps` is above 0.
        result: what a method returned.
        f: in float64.
        x: the point, in float64 on the CPU.
        order: derivative order.
        seed: of what is drawn.

    Returns:
        See :class:`Sampled`. Cost: some products, or rows, in float64; the result is not copied as a whole.

    Raises:
        TruthError: two routes to a sample disagree.
    """
    with torch.inference_mode(False), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        try:
            return SAMPLED[operator](result, f, x, order, seed)
        except RuntimeError as error:
            if isinstance(error, TruthError):
                raise
            raise TruthError(str(error).splitlines()[0]) from error
