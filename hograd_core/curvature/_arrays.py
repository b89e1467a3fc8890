"""The bridge from symmetric operators to array libraries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hograd_core._entrance import entrance
from hograd_core.curvature.linear_operator import OperatorBase, SymmetricOperator, adopted


class ArrayOperator(OperatorBase):
    """A symmetric operator in the protocol of ``scipy.sparse.linalg.aslinearoperator``.

    ``shape``, ``dtype`` (by name), ``matvec``, ``rmatvec``, ``matmat`` and ``@`` over NumPy arrays; nothing here
    imports NumPy or SciPy. Example::

        with HessianOperator(f, x) as hessian:
            values, vectors = scipy.sparse.linalg.eigsh(aslinearoperator(ArrayOperator(hessian)), k=4)

    Args:
        operator: the operator; each product copies one vector to its device and one back.

    Raises:
        TypeError: the dtype has no NumPy counterpart (bfloat16).
    """

    def __init__(self, operator: SymmetricOperator) -> None:
        operator = adopted(operator)
        if operator.dtype == torch.bfloat16:
            raise TypeError("operator: got dtype torch.bfloat16, expected one that NumPy has; use float32 or float64")
        self._operator = operator
        self.n = operator.n
        self.dtype = str(operator.dtype).removeprefix("torch.")

    def _tensor(self, array: Any) -> Tensor:
        if "complex" in str(getattr(array, "dtype", "")):
            raise TypeError(f"array: got dtype {array.dtype}, expected a real one; apply A to real and imaginary parts")
        # A copy, for PyTorch takes no negative strides and warns of arrays that are read-only.
        array = array.copy() if hasattr(array, "copy") else array
        return torch.as_tensor(array, dtype=self._operator.dtype, device=self._operator.device)

    @entrance
    def matvec(self, v: Any) -> Any:
        """A v for an array of shape (n,) or (n, 1); returns an array of the same shape."""
        tensor = self._tensor(v)
        return self._operator.matvec(tensor.reshape(-1)).reshape(tensor.shape).detach().cpu().numpy()

    rmatvec = matvec

    @entrance
    def matmat(self, columns: Any) -> Any:
        """A V for an array of shape (n, k), column by column."""
        tensor = self._tensor(columns)
        return torch.stack([self._operator.matvec(column) for column in tensor.unbind(1)], 1).detach().cpu().numpy()
