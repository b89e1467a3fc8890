"""The entries of a Hessian out of its products with the colours of its pattern; and a matrix of them."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from hograd_core._entrance import kept, released
from hograd_core.sparse._colouring import Colouring


def recovered(plan: Colouring, products: Tensor) -> Tensor:
    """The entries of a plan, from the products with its colours: (at least ``count``, n)."""
    return products.reshape(-1).index_select(0, plan.read.to(products.device))


def fits(plan: Colouring, entries: Tensor, v: Tensor, true: Tensor) -> bool:
    """Whether the product with a random vector v, which is ``true``, is that of these entries."""
    device = v.device
    rows, terms = plan.rows.to(device), entries.detach() * v[plan.columns.to(device)]
    zero = torch.zeros(plan.n, dtype=v.dtype, device=device)
    ours, size = zero.index_add(0, rows, terms), zero.index_add(0, rows, terms.abs())
    eps = torch.finfo(v.dtype).eps
    allowed = eps**0.5 * (true.abs() + size) + 64 * eps * size.max()
    return bool(((true - ours).abs() <= allowed).all())


def spread(plan: Colouring, entries: Tensor) -> Tensor:
    """All n² entries, (n, n)."""
    matrix, where = entries.new_zeros(plan.n**2), plan.where.to(entries.device)
    matrix = matrix.scatter(0, where, entries) if kept() else matrix.scatter_(0, where, released(entries))
    return matrix.view(plan.n, plan.n)


def compressed(plan: Colouring, entries: Tensor) -> Tensor:
    """The matrix in layout ``torch.sparse_csr``, (n, n), of its own memory."""
    _heard()
    starts, columns = (t.to(entries.device, copy=True) for t in (plan.starts, plan.columns))
    return torch.sparse_csr_tensor(starts, columns, released(entries), (plan.n, plan.n), check_invariants=False)


@functools.cache
def _heard() -> None:
    """Have PyTorch say unheard what it says once: that compressed rows are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends = torch.zeros(1, dtype=torch.int64, device="cpu")
        torch.sparse_csr_tensor(ends, ends[:0], torch.zeros(0, device="cpu"), (0, 0))
