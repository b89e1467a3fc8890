"""Which operations are taken apart, before a graph is cleaned or vectorised, and into what."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hograd_core.prepare.graphs._nodes import aten
from hograd_core.prepare.inductor import _compile

_KEPT = (
    aten.dot.default, aten.vdot.default, aten.flip.default, aten.slice_scatter.default, aten.select_scatter.default,
    aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default, aten._to_copy.default,
)  # fmt: skip
"""Not taken apart before a graph is cleaned or vectorised: rules know them, or vmap does and not their parts, or
inductor takes them apart by a module of its own that a graph does not load."""


def table(preparation: str) -> dict[Any, Any]:
    """Decompositions: what each preparation takes apart before it looks for what is shared.

    Op by op an operation costs a call, so that few large ones are best; a compiler fuses small ones, and cannot see
    into large ones.
    """
    found = dict(_compile.decompositions()) if preparation != "graph" else {}
    if found:  # inductor's own of this one has no batching rule, which bound products and Hessians need
        softmax = aten._softmax_backward_data.default
        found[softmax] = torch._decomp.decomposition_table[softmax]
        found[torch.ops.prims.convert_element_type.default] = _to_dtype
    for kept in _KEPT:
        found.pop(kept, None)
    apart: dict[Any, Any] = {} if preparation == "graph" else {aten.addmm.default: _addmm}
    if aten.eye.default in found:
        apart |= {aten.eye.default: _eye, aten.eye.m: _eye}
    # Nothing is conjugated or negated by a mark alone, which cleaning would lose.
    marks = {aten._conj.default: _conjugate, aten._neg_view.default: aten.neg.default}
    apart |= {aten._is_all_true.default: torch.all, aten._is_any_true.default: torch.any}  # by which PyTorch checks
    return {**found, **apart, **marks, aten.mv.default: _mv, aten.addmv.default: _addmv}


def _mv(matrix: Tensor, vector: Tensor) -> Tensor:
    """As a product of one row, which can be merged with others."""
    return torch.mm(vector.unsqueeze(0), matrix.t()).squeeze(0)


def _to_dtype(a: Tensor, dtype: torch.dtype) -> Tensor:
    copy: Tensor = aten._to_copy(a, dtype=dtype)
    return copy


def _conjugate(z: Tensor) -> Tensor:
    """Of numbers that are complex, since others have no mark; vmap has no rule for ``conj_physical``."""
    parts = torch.view_as_real(z)
    return torch.complex(parts[..., 0], -parts[..., 1])


def _eye(
    n: int, m: int | None = None, *, dtype: torch.dtype | None = None, device: torch.device | None = None, **_: Any
) -> Tensor:
    """PyTorch's own counts from 256 to 65,535 in uint16, of which there is no range on the CPU."""
    rows, columns = (torch.arange(size, device=device) for size in (n, n if m is None else m))
    return (rows[:, None] == columns).to(dtype or torch.get_default_dtype())


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """The bias goes with what comes after the product."""
    product: Tensor = torch.mm(a, b) if alpha == 1 else alpha * torch.mm(a, b)
    return product + (bias if beta == 1 else beta * bias)


def _addmv(bias: Tensor, matrix: Tensor, vector: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    scaled: Tensor = beta * bias + alpha * _mv(matrix, vector)
    return scaled
