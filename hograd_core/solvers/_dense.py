"""The dense Hessian that the solvers factor."""

from __future__ import annotations

from torch import Tensor

from hograd_core._checks import ScalarFunction, check_finite
from hograd_core.derivatives.derivative_tensor import derivative_tensor


def finite_hessian(f: ScalarFunction, x: Tensor, method: str | None) -> Tensor:
    """The symmetric part of the Hessian, (n, n), in x's dtype.

    Raises:
        FloatingPointError: it holds values that are not finite.
    """
    n = x.numel()
    try:
        matrix = derivative_tensor(f, x, 2, method=method, strict=True).reshape(n, n)
    except FloatingPointError as error:
        raise FloatingPointError(f"f: its Hessian at x holds values that are not finite; {error}") from error
    return check_finite((matrix + matrix.T) / 2, "f: its Hessian at x")
