"""The matrix of an operator, and columns and rows of the identity that it is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from hograd_core.arguments import check_fits
from hograd_core.curvature.linear_operator import SymmetricOperator


def dense_matrix(operator: SymmetricOperator) -> Tensor:
    """The operator's (n, n) matrix by n products, one a column.

    Raises:
        MemoryBudgetError: it is larger than what is free.
    """
    check_fits("the dense matrix", operator.n**2 * operator.dtype.itemsize, operator.device)
    matrix = torch.empty(operator.n, operator.n, dtype=operator.dtype, device=operator.device)
    for i in range(operator.n):
        matrix[:, i] = operator.matvec(unit_vector(operator, i))
    return matrix


def unit_vector(operator: SymmetricOperator, i: int) -> Tensor:
    """The i-th column of the identity."""
    e = torch.zeros(operator.n, dtype=operator.dtype, device=operator.device)
    e[i] = 1
    return e


def unit_rows(part: slice, like: Tensor) -> Tensor:
    """Some rows of the identity over the elements of ``like``, in its dtype and on its device."""
    n = like.numel()
    if part == slice(0, n):
        return torch.eye(n, dtype=like.dtype, device=like.device)
    rows = torch.zeros(part.stop - part.start, n, dtype=like.dtype, device=like.device)
    rows.diagonal(part.start).fill_(1)
    return rows
