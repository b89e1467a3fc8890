"""The generalised Gauss–Newton matrix G = J^T H_L J: products and the matrix.

J is the Jacobian of the outputs by the parameters, H_L the Hessian of the loss by the outputs (Schraudolph 2002,
§3; Martens 2020, eq. 8). G is positive semi-definite where the loss is convex in the outputs; it equals the Hessian
where the outputs are linear in the parameters, and the Fisher matrix where the loss is the negative log-likelihood
of an exponential family in its natural parameter (Pascanu & Bengio 2014; Martens 2020, §9.2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hograd_core._differences import conclude, differenced, judged, probe, tolerance
from hograd_core._entrance import kept, released, unguarded
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core.curvature._dense import dense_matrix
from hograd_core.curvature._jacobian import (
    JacobianProductOperator,
    full_jacobian,
    gradient_of_loss,
    loss_hessian_product,
    pull,
    pushed_and_pulled,
    transformed,
    transformed_loss_hessian,
)
from hograd_core.curvature._model import Inputs, Loss, Model, check_model, check_vector, scalar_loss


def check_gauss_newton(where: str, result: Tensor, arguments: tuple[Any, ...], order: int | None) -> None:
    """What ``verify=True`` does: J v and H_L (J v) by differences of outputs and of the loss's gradient, in float64.

    Raises:
        VerificationError: the result disagrees.
        TypeError: called from inside a larger derivative.
    """
    if kept():
        raise TypeError(f"verify: {where} is called from inside another derivative; verify the outer one")
    model: Model = arguments[0]
    v = arguments[1] if len(arguments) > 1 else probe(model.point, 1)
    product = result if len(arguments) > 1 else result @ v
    allowed = tolerance(model.point.dtype)
    with unguarded():
        wide = model.in_float64()
        outputs = wide.outputs(wide.point)
        tangent, *first = differenced(lambda flat: wide.outputs(flat).detach(), wide.point, v.to(wide.point))

        def slopes(z: Tensor) -> Tensor:
            return gradient_of_loss(wide, z.reshape(outputs.shape))

        curved, *second = differenced(slopes, outputs.detach().reshape(-1), tangent)
        true = pull(wide, curved.reshape(outputs.shape).to(outputs.dtype))
        size = float(torch.linalg.vector_norm(true))
        # Relative doubts of the two differences add up in the product, and so do the roundings.
        sizes = [float(torch.linalg.vector_norm(t)) or 1.0 for t in (tangent, curved)]
        doubt, noise = (size * (first[i] / sizes[0] + second[i] / sizes[1]) for i in (0, 1))
    conclude(where, judged(true, doubt, noise, size, allowed), product, "outputs and gradients")


@operator(result="x", default="jvp_vjp", order=2, verification=check_gauss_newton)
def gauss_newton_vector_product(
    module: nn.Module, loss: Loss, inputs: Inputs, targets: Tensor, v: Tensor, **how: Unpack[How]
) -> Tensor:
    """G v = J^T (H_L (J v)), without forming G, J or H_L.

    Any loss that can be differentiated twice by the outputs, batch-coupled ones included. P is the number of
    trainable parameters; vectors follow ``module.named_parameters()``, each parameter row-major.

    Args:
        module: the network, with at least one trainable parameter; not changed.
        loss: callable (outputs, targets) -> 0-dimensional tensor.
        inputs: a tensor, or a tuple of tensors passed positionally; batch first.
        targets: a tensor, batch first.
        v: vector of shape (P,), dtype and device of the parameters.

    Returns:
        A detached tensor of shape (P,).

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for; the message names it.
        UnsupportedError: PyTorch has no formula for a layer by this method.
    """
    model = check_model(module, loss, inputs, targets)
    return to_method(model, check_vector(v, model))


@method(
    gauss_newton_vector_product,
    "jvp_vjp",
    mode="forward, then reverse over reverse on the loss, then reverse",
    source="Schraudolph 2002, §4.2; Martens 2010, §4.2; torch.func.jvp",
)
def product_jvp_vjp(model: Model, v: Tensor) -> Tensor:
    """Two forward passes (one with tangents), one backward pass, one HVP of the loss by the outputs."""
    return pushed_and_pulled(model, loss_hessian_product, v)


@method(
    gauss_newton_vector_product,
    "func",
    mode="forward, then reverse over reverse on the loss, then reverse",
    source="Schraudolph 2002, §4.2; torch.func.jvp, .vjp and .grad alone",
    functorch=True,
)
def product_func(model: Model, v: Tensor) -> Tensor:
    """Two forward passes (one with tangents), one backward pass, one HVP of the loss; several v at once by in_dims."""
    return transformed(model, transformed_loss_hessian, v)


@method(
    gauss_newton_vector_product,
    "double_vjp",
    mode="forward emulated by two reverse sweeps, then reverse over reverse on the loss, then reverse",
    source="Townsend 2017 (the double-vjp trick); Dangel, Kunstner & Hennig 2020 (BackPACK)",
)
def product_double_vjp(model: Model, v: Tensor) -> Tensor:
    """One forward pass and three backward passes; no forward-mode formulas needed."""
    with JacobianProductOperator(model, loss_hessian_product) as gauss_newton:
        return gauss_newton.matvec(v)


@operator(result="x * order", default="jacobian", order=2, verification=check_gauss_newton)
def gauss_newton_matrix(module: nn.Module, loss: Loss, inputs: Inputs, targets: Tensor, **how: Unpack[How]) -> Tensor:
    """G = J^T H_L J, all P x P entries.

    Args:
        module: the network, with at least one trainable parameter; not changed.
        loss: callable (outputs, targets) -> 0-dimensional tensor.
        inputs: a tensor, or a tuple of tensors passed positionally; batch first.
        targets: a tensor, batch first.

    Returns:
        A detached tensor of shape (P, P), in the dtype and on the device of the parameters.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for; the message names it.
        UnsupportedError: PyTorch has no formula or batching rule for a layer by this method.
    """
    return to_method(check_model(module, loss, inputs, targets))


@method(
    gauss_newton_matrix,
    "jacobian",
    mode="reverse by rows of J, vectorised; reverse over reverse on the loss",
    source="Schraudolph 2002, eq. 9; torch.func.jacrev",
    in_parts=True,
)
def matrix_jacobian(model: Model, *, chunk_size: int | None = None) -> Tensor:
    """J^T (H_L J) from the explicit Jacobian. Time: M backward passes for M outputs, O(M P²); memory: 2 M P + P²."""
    outputs, jacobian = full_jacobian(model, chunk_size)
    columns = jacobian.movedim(-1, 0)
    curved = loss_hessian_product(model, outputs, columns, batched=True)
    return curved.flatten(1) @ jacobian.flatten(0, -2)


@method(
    gauss_newton_matrix,
    "columns",
    mode="forward emulated by two reverse sweeps, then reverse, a product a column",
    source="Schraudolph 2002, §4.2, with unit vectors; the outputs' graph built once",
)
def matrix_columns(model: Model) -> Tensor:
    """P products with unit vectors. Memory beyond the result: that of one product."""
    with JacobianProductOperator(model, loss_hessian_product) as gauss_newton:
        return dense_matrix(gauss_newton)


@method(
    gauss_newton_matrix,
    "hessian_of_linearised",
    mode="reverse over reverse of the loss of the linearised network, vectorised",
    source="Martens 2020, §8.1: G is the Hessian of the loss of the outputs' linear model; torch.func.jacrev of grad",
)
def matrix_linearised(model: Model) -> Tensor:
    """The Hessian at 0 of s -> L(outputs + J s), J explicit. Memory: M P + P² and what torch.func.jacrev takes."""
    outputs, jacobian = full_jacobian(model)

    def linearised(step: Tensor) -> Tensor:
        return scalar_loss(model.loss, outputs + jacobian @ step, model.targets)

    # One level of vmap, and no forward formula, which PyTorch lacks for the squared error (pytorch/pytorch#123996).
    matrix: Tensor = released(torch.func.jacrev(torch.func.grad(linearised))(torch.zeros_like(model.point)))
    return matrix.to(model.point.dtype)
