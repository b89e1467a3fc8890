"""The truth of the sparse Hessian: the Hessian."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hograd_core.reference import reference, truth
from hograd_core.sparse.hessian import sparse_hessian


@truth(sparse_hessian)
def _matrix(f: Any, x: Tensor) -> Tensor:
    matrix: Tensor = reference("hessian", f, x)
    return matrix.reshape(x.numel(), x.numel())
