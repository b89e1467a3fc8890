"""Half precision where LAPACK has no kernels: products in the operator's dtype, everything else in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hograd_core.curvature.linear_operator import OperatorBase, adopted

_HALVES = (torch.float16, torch.bfloat16)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for the half-precision dtypes, else the dtype itself."""
    return torch.float32 if dtype in _HALVES else dtype


def widened(tensor: Tensor) -> Tensor:
    """The tensor in its working dtype."""
    return tensor.to(working_dtype(tensor.dtype))


class WideOperator(OperatorBase):
    """A half-precision operator on float32 vectors; each is scaled to entries of at most 1 before its product.

    Without the scaling a float16 product overflows for vectors that are harmless in float32.
    """

    def __init__(self, operator: Any) -> None:
        self.n = operator.n
        self.dtype = torch.float32
        self.device = operator.device
        self.eps = precision(operator)
        self._operator = operator

    def matvec(self, v: Tensor) -> Tensor:
        """A v for v of shape (n,), float32."""
        scale = v.abs().max()
        if not bool(scale > 0):
            return torch.zeros_like(v)
        product: Tensor = self._operator.matvec((v / scale).to(self._operator.dtype))
        return product.to(torch.float32) * scale


def widen(operator: Any) -> Any:
    """The operator, adopted, or its :class:`WideOperator` where its dtype is a half-precision one.

    Raises:
        TypeError: it lacks what an operator needs.
    """
    operator = adopted(operator)
    return WideOperator(operator) if operator.dtype in _HALVES else operator


def precision(operator: Any) -> float:
    """Machine epsilon of the operator's products."""
    return float(getattr(operator, "eps", torch.finfo(operator.dtype).eps))


def solver_tolerance(eps: float) -> float:
    """The residual that iterative kernels aim at by default: eps^0.75, but not below what products resolve."""
    return float(max(eps**0.75, 16 * eps))


def sampling(eps: float, order: int) -> float:
    """Relative error to allow an estimator at its default number of probes: a guard against nonsense, no more.

    Its accuracy is the business of the standard error it states, which the tests hold it to.
    """
    return 5.0


def sampling_outcomes(eps: float, order: int) -> float:
    """As ``sampling``, for one drawn target a sample: an outcome of probability p can weigh 1/p times the mean.

    By Markov's inequality a right estimate is 1,000 times too large in fewer than one of 1,000 draws.
    """
    return 1e3


def sampling_fourth_powers(eps: float, order: int) -> float:
    """As ``sampling``, for means of z⁴/3 of normal z: one of 16 probes with |z| = 5.5 (1 in 10⁷) moves them by 19."""
    return 25.0


def unbounded(eps: float, order: int) -> float:
    """Relative error to allow a named approximation that has no bound: only shape and finiteness are held."""
    return 1e12
