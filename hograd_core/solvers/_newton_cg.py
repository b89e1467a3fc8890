"""The Newton step (H + damping I) p = -g: by truncated conjugate gradients on HVPs, and by a dense solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import Function, ScalarFunction, T, check_finite, check_point, scalar_function
from hograd_core._entrance import entrance
from hograd_core._how import How, Unpack
from hograd_core._registry import Method, method, operator, to_method
from hograd_core.arguments import point_of
from hograd_core.curvature._model import check_damping
from hograd_core.curvature._precision import solver_tolerance, widened
from hograd_core.curvature.linear_operator import LINEARISED, HessianOperator
from hograd_core.derivatives.derivative_vector_product import derivative_vector_product
from hograd_core.derivatives.gradient import gradient
from hograd_core.hazards import guarded
from hograd_core.prepare import Prepared
from hograd_core.solvers._conjugate_gradient import CGResult, Preconditioner, conjugate_gradient
from hograd_core.solvers._dense import finite_hessian
from hograd_core.solvers._inside import refuse_inside_derivative
from hograd_core.taylor import methods as _taylor_methods  # noqa: F401 (its products are methods here too)


@entrance
def newton_cg(
    f: Function[Any],
    x: Any,
    *,
    args: tuple[Any, ...] = (),
    damping: float = 0.0,
    hvp_method: str = LINEARISED,
    preparation: str | Prepared = "eager",
    relative_tolerance: float | None = None,
    max_iterations: int | None = None,
    radius: float | None = None,
    preconditioner: Preconditioner | None = None,
) -> CGResult:
    """The Newton step of f at x by truncated conjugate gradients, with its report.

    Args:
        f: function of x and ``args``, returning a 0-dimensional tensor.
        x: the point, a tensor or a structure of tensors, of a real floating dtype, any device; n elements.
        args: what f takes after x, not differentiated.
        damping: multiple of the identity added to the Hessian, >= 0.
        hvp_method: "linearised" (gradient graph built once) or a method of ``derivative_vector_product``.
        preparation: as for ``HessianOperator``: of products at the next point none is new where it is a kernel at hand.
        relative_tolerance: residual relative to the gradient's norm; default max(eps^0.75, 16 eps).
        max_iterations: most conjugate-gradient iterations; default 2 n.
        radius: of a trust region, or None.
        preconditioner: flat r -> M^-1 r, symmetric positive definite.

    Returns:
        The result; its ``step`` is flat, (n,). See :func:`.conjugate_gradient` for cost and negative curvature.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for; the message names it.
        FloatingPointError: the gradient or a product is not finite.
    """
    refuse_inside_derivative("newton_cg", point_of(f, x, args)[1])
    how: dict[str, Any] = {"method": hvp_method, "damping": check_damping(damping), "preparation": preparation}
    with guarded("newton_cg", (product_of(hvp_method), 2)), HessianOperator(f, x, args=args, **how) as hessian:
        return conjugate_gradient(
            hessian,
            -hessian.gradient,
            relative_tolerance=relative_tolerance,
            max_iterations=max_iterations,
            radius=radius,
            preconditioner=preconditioner,
        )


@operator(result="x", default=LINEARISED, order=2)
def newton_cg_step(f: Function[T], x: T, damping: float = 0.0, **how: Unpack[How]) -> T:
    """The step p with (H + damping I) p = -g, for the gradient g and Hessian H of f at x.

    A method other than ``dense`` is conjugate gradients with that Hessian-vector product (``linearised``: the
    gradient's graph is built once and walked at every iteration). Where H + damping I is not positive definite these
    stop at the first direction of negative curvature and return a descent direction, not the solution; ``dense``
    solves whatever the signs, which is a step to the saddle of the quadratic model. ``newton_cg`` returns the report
    of iterations and residuals.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device; n elements.
        damping: multiple of the identity added to the Hessian, >= 0.

    Returns:
        A detached tensor with the shape, dtype and device of x. Time of conjugate gradients: one HVP an iteration,
        at most about n of them and far fewer where the spectrum is clustered; memory: 5 vectors beyond an HVP's.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for; the message names it.
        FloatingPointError: the gradient or a product is not finite.
        UnsupportedError: PyTorch has no formula for a step of f by this method.
    """
    refuse_inside_derivative("newton_cg_step", x)
    return to_method(scalar_function(f), check_point(x), check_damping(damping))


def product_of(hvp_method: str) -> str:
    """The derivative method whose formulas an operator on Hessian-vector products rests on."""
    return "double_backward" if hvp_method == LINEARISED else hvp_method


def _tolerance(product: Method | None) -> Callable[[float, int], float]:
    """Error to allow in units of condition number times |p|: the residual aimed at, or the products' own error."""

    def rule(eps: float, order: int) -> float:
        own = product.tolerance(eps, 2) if product is not None and product.tolerance is not None else 0.0
        return min(0.5, 30 * max(solver_tolerance(eps), own))

    return rule


def _declare(name: str, mode: str, product: Method | None = None) -> None:
    # Not exact: truncated by design, and on an indefinite Hessian deliberately another step than the solve's.
    @method(
        newton_cg_step,
        name,
        mode=mode,
        source="Steihaug 1983; Nocedal & Wright 2006, algorithm 7.1 (inner loop)",
        exact=False,
        functorch=product is not None and product.functorch,
        tolerance=_tolerance(product),
        amounts_to=((product_of(name), 2),),
    )
    def step(
        f: ScalarFunction,
        x: Tensor,
        damping: float,
        *,
        relative_tolerance: float | None = None,
        max_iterations: int | None = None,
        radius: float | None = None,
        preconditioner: Preconditioner | None = None,
        preparation: Any = "eager",
    ) -> Tensor:
        result = newton_cg(
            f,
            x,
            damping=damping,
            hvp_method=name,
            preparation=preparation,
            relative_tolerance=relative_tolerance,
            max_iterations=max_iterations,
            radius=radius,
            preconditioner=preconditioner,
        )
        return result.step.to(x.dtype).reshape(x.shape)

    step.__doc__ = f"Conjugate gradients on Hessian-vector products by ``{name}``; options as for ``newton_cg``."


_declare(LINEARISED, "reverse over a kept reverse graph, a product an iteration")


for _product in derivative_vector_product.methods.values():
    if _product.supports(2):
        _declare(_product.name, f"{_product.mode}, a product an iteration", _product)


@method(
    newton_cg_step,
    "dense",
    mode="the full Hessian, then a factorisation",
    source="Nocedal & Wright 2006, eq. 2.15; torch.linalg.cholesky_ex, torch.linalg.eigh",
    amounts_to=(("rows", 2),),
)
def dense(f: ScalarFunction, x: Tensor, damping: float, *, hessian_method: str | None = None) -> Tensor:
    """Cholesky where the matrix is positive definite; elsewhere the pseudo-inverse, -(H + damping I)^+ g.

    The pseudo-inverse drops eigenvalues below n eps of the largest: on a singular but consistent system that is the
    solution of least norm, as conjugate gradients give it. Time: the Hessian and n³/3 (about 9 n³ for the
    pseudo-inverse); memory: 2 n². Relative error about eps times the condition number.
    """
    n = x.numel()
    matrix = widened(finite_hessian(f, x, hessian_method))
    matrix.diagonal().add_(damping)
    right = -check_finite(widened(gradient(f, x).reshape(n, 1)), "f: its gradient at x")
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) == 0:
        step = torch.cholesky_solve(right, factor)
    else:
        values, vectors = torch.linalg.eigh(matrix)
        kept = values.abs() > n * torch.finfo(x.dtype).eps * values.abs().max()
        inverse = torch.where(kept, 1 / torch.where(kept, values, 1), 0)
        step = vectors @ (inverse[:, None] * (vectors.T @ right))
    return step.to(x.dtype).reshape(x.shape)
