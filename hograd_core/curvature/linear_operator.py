"""Symmetric linear operators, the Hessian at a point among them."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

from hograd_core._checks import check_number, check_point, check_positive, scalar_function
from hograd_core._entrance import entrance, in_autocast, kept, released, watched
from hograd_core.arguments import point_of
from hograd_core.derivatives._autograd import grad_or_zeros, leaf
from hograd_core.derivatives.derivative_vector_product import derivative_vector_product
from hograd_core.hazards import guard
from hograd_core.prepare import Bound, Prepared, prepare

LINEARISED = "linearised"


class SymmetricOperator(Protocol):
    """What the iterative kernels need: y = A v on vectors of n elements."""

    n: int
    dtype: torch.dtype
    device: torch.device

    def matvec(self, v: Tensor) -> Tensor:
        """A v for v of shape (n,)."""
        ...


class OperatorBase:
    """What the operators here share: ``shape``, ``A @ v`` for a vector (n,) and ``A @ V`` for columns (n, k)."""

    n: int

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return self.n, self.n

    def matvec(self, v: Any) -> Any:
        """A v for v of shape (n,)."""
        raise NotImplementedError

    def matmat(self, columns: Any) -> Any:
        """A V for columns of shape (n, k): k products."""
        if columns.shape[1] == 0:
            return columns
        return torch.stack([self.matvec(column) for column in columns.unbind(1)], 1)

    def __matmul__(self, other: Any) -> Any:
        dimensions = getattr(other, "ndim", None)
        if dimensions not in (1, 2) or other.shape[0] != self.n:
            got = type(other).__name__ if dimensions is None else f"shape {tuple(other.shape)}"
            raise ValueError(f"operand of @: got {got}, expected a vector ({self.n},) or columns ({self.n}, k)")
        return self.matvec(other) if dimensions == 1 else self.matmat(other)


def check_operand(v: Any, operator: SymmetricOperator) -> Tensor:
    """Return ``v`` after checking that the operator applies to it; detached, unless in a larger derivative.

    Raises:
        TypeError: not a tensor, or another dtype than the operator's.
        ValueError: another shape than (n,), or another device.
    """
    if not isinstance(v, Tensor):
        raise TypeError(f"v: got {type(v).__name__}, expected a torch.Tensor of shape ({operator.n},)")
    if v.shape != (operator.n,):
        raise ValueError(f"v: got shape {tuple(v.shape)}, expected ({operator.n},); flatten it, or use A @ columns")
    if v.dtype != operator.dtype:
        raise TypeError(f"v: got dtype {v.dtype}, expected {operator.dtype} like the operator; convert with .to")
    if v.device != operator.device:
        raise ValueError(f"v: got device {v.device}, expected {operator.device} like the operator; move it with .to")
    held: Tensor = v if kept() else v.detach()
    return held.clone() if held.is_inference() else held


class MatrixOperator(OperatorBase):
    """A symmetric operator from a function (n,) -> (n,), or from a dense (n, n) matrix.

    Args:
        product: v -> A v; it runs with grad enabled, in the autocast of whoever asks for the product.
        n: dimension, >= 1.
        dtype: of vectors and products, a real floating one.
        device: of vectors and products.
    """

    def __init__(
        self, product: Callable[[Tensor], Tensor], n: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        if not callable(product):
            raise TypeError(
                f"product: got {type(product).__name__}, expected a callable v -> A v; or use .dense(matrix)"
            )
        self.n = check_positive(n, "n")
        self.dtype = dtype
        # Where "cuda" puts it: "cuda:0", say. Named, or a default device would have its say.
        self.device = torch.empty(0, device=device).device
        self._product: Callable[[Tensor], Tensor] | None = product
        self._matrix: Tensor | None = None

    @classmethod
    def dense(cls, matrix: Any) -> MatrixOperator:
        """The operator of a square matrix, which is taken to be symmetric.

        Raises:
            TypeError: not a tensor of a real floating dtype.
            ValueError: not square.
        """
        if not isinstance(matrix, Tensor) or not matrix.dtype.is_floating_point:
            got = matrix.dtype if isinstance(matrix, Tensor) else type(matrix).__name__
            raise TypeError(f"matrix: got {got}, expected a torch.Tensor of a real floating dtype")
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"matrix: got shape {tuple(matrix.shape)}, expected (n, n)")
        made = cls(lambda v: matrix @ v, matrix.shape[0], matrix.dtype, matrix.device)
        made._matrix = matrix
        return made

    @entrance
    def matvec(self, v: Tensor) -> Tensor:
        """A v for v of shape (n,).

        Raises:
            TypeError, ValueError: v does not fit, or the product is none of that dtype, shape and device.
        """
        v = check_operand(v, self)
        if self._matrix is not None:
            # Our own algebra, so outside the caller's autocast.
            product: Tensor = released(self._matrix @ v)
            return product
        assert self._product is not None
        found: Any = in_autocast(self._product)(v)
        if not isinstance(found, Tensor) or (found.shape, found.dtype, found.device) != (v.shape, v.dtype, v.device):
            got = (
                f"shape {tuple(found.shape)}, {found.dtype}, on {found.device}"
                if isinstance(found, Tensor)
                else type(found).__name__
            )
            raise TypeError(
                f"product: returned {got}, expected shape ({self.n},), {v.dtype}, on {v.device} as declared; convert "
                "it, and compute in that dtype (under autocast a matrix product comes in a lower one)"
            )
        # A product that hands back v itself would let an in-place step of an iteration change both.
        product = released(found)
        return product.clone() if found is v else product


def adopted(operator: Any) -> Any:
    """An operator of this room as it is; any other object of the protocol wrapped.

    Raises:
        TypeError: it lacks what :class:`SymmetricOperator` asks for.
    """
    if isinstance(operator, OperatorBase):
        return operator
    missing = [name for name in ("n", "dtype", "device", "matvec") if not hasattr(operator, name)]
    if missing:
        raise TypeError(
            f"operator: got {type(operator).__name__} without {', '.join(missing)}, expected a HessianOperator, a "
            "MatrixOperator (MatrixOperator.dense(matrix) of a matrix), or an object with n, dtype, device and matvec"
        )
    return MatrixOperator(operator.matvec, operator.n, operator.dtype, operator.device)


class HessianOperator(OperatorBase):
    """v -> (H + damping I) v, H the Hessian of f at x, without H.

    The method ``"linearised"`` builds the graph of the gradient once and walks it backwards at every product
    (Pearlmutter 1994 by double backward, the gradient's share paid once): about one gradient's cost a
    product instead of two, at the price of holding the gradient's graph, 2 to 3 times the memory of one
    gradient, until :meth:`close`, the end of the ``with`` block, or the collection of this object. Every
    other method is one of ``derivative_vector_product`` and keeps nothing between products.

    Vectors are flat, of ``x.numel()`` elements in x's dtype and on its device; ``A @ v`` and ``A @ columns`` work too.
    The point is copied: later in-place changes of x do not reach the operator, by any method. Products are detached,
    but where the operator is used within a function that is differentiated itself.

    Args:
        f: function of x and ``args`` to a 0-dimensional tensor.
        x: the point, of any shape; or a structure of tensors.
        args: what f takes after x, not differentiated.
        method: ``"linearised"`` or a method of ``derivative_vector_product``.
        damping: multiple of the identity that is added.
        preparation: ``"eager"``; or how ``method`` (linearised: double backward) is made ready, what depends on x alone
            computed once: ``"graph"``, ``"compiled"``, ``"cudagraph"``, ``"auto"``, see :func:`hograd_core.prepare`; or
            what that returned for ``hvp`` of f, so that an operator at the next point needs no new trace.

    Attributes:
        value: f(x). gradient: flat gradient. products: Hessian products made so far.
        n, shape, dtype, device: of the operator.
        packing: of a structure x: its ``pack(v, "v")`` and ``unpack(vector)`` go between it and vectors; else None.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: unknown method, a damping that is not finite, or f's result is not 0-dimensional.
        UnsupportedError: PyTorch differentiates f wrongly by this method; others are told at the first product.
    """

    @entrance
    def __init__(
        self,
        f: Any,
        x: Any,
        *,
        args: tuple[Any, ...] = (),
        method: str = LINEARISED,
        damping: float = 0.0,
        preparation: str | Prepared = "eager",
    ) -> None:
        given = f
        f, x, self.packing = point_of(f, x, args)
        if method != LINEARISED:
            derivative_vector_product.method(method)
        self._f = scalar_function(f)
        self._x = check_point(x).clone()
        self.method = method
        self.damping = check_number(damping, "damping")
        self.n = self._x.numel()
        self.dtype = self._x.dtype
        self.device = self._x.device
        self.products = 0
        self._bound = None if preparation == "eager" or kept() else self._bind(given, args, preparation)
        keep = method == LINEARISED and self._bound is None
        point = leaf(self._x)
        # The other methods are guarded at every product.
        with watched(guard("HessianOperator[linearised]", (("double_backward", 2),)) if keep else None):
            value = self._f(point)
        gradient = grad_or_zeros(value, point, create_graph=keep)
        self.value: Tensor = released(value)
        self.gradient: Tensor = released(gradient).reshape(-1)
        self._linearised: tuple[Tensor, Tensor] | None = (gradient, point) if keep else None

    def _bind(self, given: Any, args: tuple[Any, ...], preparation: str | Prepared) -> Bound:
        """The product at the point: by a kernel that the caller has, or a new one."""
        if isinstance(preparation, Prepared):
            if self.packing is not None or not preparation.is_product_of(given):
                raise ValueError(
                    "preparation: got a kernel of another function or operator, expected prepare(hvp, f, x) of this f "
                    "and a tensor x, or a preparation by name"
                )
            return preparation.bind(self._x, args=args)
        made = kernel_for(preparation, self._f, self._x, self.method)
        assert isinstance(made, Prepared)
        return made.bind(self._x)

    @entrance
    def matvec(self, v: Tensor) -> Tensor:
        """(H + damping I) v for flat v.

        Raises:
            TypeError, ValueError: v does not fit; the message says how.
            RuntimeError: the operator was closed.
        """
        v = check_operand(v, self)
        product: Tensor
        if self._bound is not None and not kept():
            product = self._bound(v.reshape(self._x.shape))
        elif self._bound is not None or self.method != LINEARISED:
            method = None if self.method == LINEARISED else self.method
            product = derivative_vector_product(self._f, self._x, v.reshape(self._x.shape), 2, method=method)
        elif self._linearised is None:
            raise RuntimeError("HessianOperator: used after close(); build a new one")
        else:
            gradient, point = self._linearised
            product = grad_or_zeros(
                gradient, point, create_graph=False, retain_graph=True, grad_outputs=v.reshape(gradient.shape)
            )
        self.products += 1
        product = product.reshape(-1)
        if self.damping:
            product = product + self.damping * v
        released_product: Tensor = released(product)
        return released_product

    def close(self) -> None:
        """Release what is kept; further products of the linearised method raise."""
        self._linearised = self._bound = None

    def __enter__(self) -> HessianOperator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def kernel_for(preparation: str | Prepared, f: Callable[..., Tensor], x: Tensor, method: str) -> str | Prepared:
    """One kernel for Hessian operators of f at many points, made at x: what they take as ``preparation``."""
    if isinstance(preparation, Prepared) or preparation == "eager":
        return preparation
    own = None if method == LINEARISED else method
    return prepare(derivative_vector_product, f, x, preparation=preparation, method=own, order=2)
