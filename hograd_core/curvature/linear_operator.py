"""The Hessian at a point as a linear operator, and its bridge to array libraries."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

from hograd_core._checks import check_point, scalar_function
from hograd_core.derivatives._autograd import grad_or_zeros, leaf
from hograd_core.derivatives.derivative_vector_product import derivative_vector_product

LINEARISED = "linearised"


class SymmetricOperator(Protocol):
    """What the iterative kernels need: y = A v on vectors of n elements."""

    n: int
    dtype: torch.dtype
    device: torch.device

    def matvec(self, v: Tensor) -> Tensor:
        """A v for v of shape (n,)."""
        ...


class MatrixOperator:
    """A symmetric operator from a function (n,) -> (n,), or from a dense (n, n) matrix."""

    def __init__(
        self, product: Callable[[Tensor], Tensor], n: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.n = n
        self.dtype = dtype
        self.device = torch.device(device)
        self._product = product

    @classmethod
    def dense(cls, matrix: Tensor) -> MatrixOperator:
        """The operator of a square matrix, which is taken to be symmetric."""
        return cls(lambda v: matrix @ v, matrix.shape[0], matrix.dtype, matrix.device)

    def matvec(self, v: Tensor) -> Tensor:
        """A v for v of shape (n,)."""
        return self._product(v)


class HessianOperator:
    """v -> (H + damping I) v, H the Hessian of f at x, without H.

    The method ``"linearised"`` builds the graph of the gradient once and walks it backwards at every product
    (Pearlmutter 1994 by double backward, the gradient's share paid once): about one gradient's cost a
    product instead of two, at the price of holding the gradient's graph, 2 to 3 times the memory of one
    gradient, until :meth:`close`, the end of the ``with`` block, or the collection of this object. Every
    other method is one of ``derivative_vector_product`` and keeps nothing between products.

    Vectors are flat, of ``x.numel()`` elements in x's dtype and on its device.

    Args:
        f: function of x to a 0-dimensional tensor.
        x: the point, of any shape.
        method: ``"linearised"`` or a method of ``derivative_vector_product``.
        damping: multiple of the identity that is added.

    Attributes:
        value: f(x). gradient: flat gradient. products: Hessian products made so far.

    Raises:
        ValueError: unknown method.
    """

    def __init__(self, f: Any, x: Tensor, *, method: str = LINEARISED, damping: float = 0.0) -> None:
        if method != LINEARISED:
            derivative_vector_product.method(method)
        self._f = scalar_function(f)
        self._x = check_point(x)
        self.method = method
        self.damping = damping
        self.n = self._x.numel()
        self.dtype = self._x.dtype
        self.device = self._x.device
        self.products = 0
        keep = method == LINEARISED
        with torch.enable_grad():
            point = leaf(self._x)
            value = self._f(point)
            gradient = grad_or_zeros(value, point, create_graph=keep)
        self.value = value.detach()
        self.gradient = gradient.detach().reshape(-1)
        self._linearised: tuple[Tensor, Tensor] | None = (gradient, point) if keep else None

    def matvec(self, v: Tensor) -> Tensor:
        """(H + damping I) v for flat v.

        Raises:
            RuntimeError: the operator was closed.
        """
        self.products += 1
        product: Tensor
        if self.method != LINEARISED:
            product = derivative_vector_product(self._f, self._x, v.reshape(self._x.shape), 2, method=self.method)
        elif self._linearised is None:
            raise RuntimeError("HessianOperator: used after close(); build a new one")
        else:
            gradient, point = self._linearised
            product = grad_or_zeros(
                gradient, point, create_graph=False, retain_graph=True, grad_outputs=v.reshape(gradient.shape)
            )
        product = product.reshape(-1)
        if self.damping:
            product = product + self.damping * v
        return product

    def close(self) -> None:
        """Release the kept graph; further products of the linearised method raise."""
        self._linearised = None

    def __enter__(self) -> HessianOperator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def dense_matrix(operator: SymmetricOperator) -> Tensor:
    """The operator's (n, n) matrix by n products, one a column."""
    matrix = torch.empty(operator.n, operator.n, dtype=operator.dtype, device=operator.device)
    for i in range(operator.n):
        matrix[:, i] = operator.matvec(unit_vector(operator, i))
    return matrix


def unit_vector(operator: SymmetricOperator, i: int) -> Tensor:
    """The i-th column of the identity."""
    e = torch.zeros(operator.n, dtype=operator.dtype, device=operator.device)
    e[i] = 1
    return e


class ArrayOperator:
    """A symmetric operator in the protocol of ``scipy.sparse.linalg.aslinearoperator``.

    ``shape``, ``dtype`` (by name), ``matvec``, ``rmatvec`` and ``matmat`` over NumPy arrays; nothing here imports
    NumPy or SciPy. Example::

        with HessianOperator(f, x) as hessian:
            values, vectors = scipy.sparse.linalg.eigsh(aslinearoperator(ArrayOperator(hessian)), k=4)

    Args:
        operator: the operator; each product copies one vector to its device and one back.

    Raises:
        TypeError: the dtype has no NumPy counterpart (bfloat16).
    """

    def __init__(self, operator: SymmetricOperator) -> None:
        if operator.dtype == torch.bfloat16:
            raise TypeError("operator: got dtype torch.bfloat16, expected one that NumPy has; use float32 or float64")
        self._operator = operator
        self.shape = (operator.n, operator.n)
        self.dtype = str(operator.dtype).removeprefix("torch.")

    def matvec(self, v: Any) -> Any:
        """A v for an array of shape (n,) or (n, 1); returns an array of the same shape."""
        tensor = torch.as_tensor(v, dtype=self._operator.dtype, device=self._operator.device)
        return self._operator.matvec(tensor.reshape(-1)).reshape(tensor.shape).cpu().numpy()

    rmatvec = matvec

    def matmat(self, matrix: Any) -> Any:
        """A V for an array of shape (n, k), column by column."""
        tensor = torch.as_tensor(matrix, dtype=self._operator.dtype, device=self._operator.device)
        return torch.stack([self._operator.matvec(column) for column in tensor.unbind(1)], 1).cpu().numpy()
