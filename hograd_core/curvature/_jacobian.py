"""The Jacobian J of a model's outputs by its parameters: products, rows, and J^T C J as an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import check_chunk_size
from hograd_core._entrance import entrance, released
from hograd_core._forward import jvp
from hograd_core._unsupported import refused_under_vmap
from hograd_core.arguments import in_chunks, slices
from hograd_core.curvature._dense import unit_rows
from hograd_core.curvature._likelihood import fisher_is_hessian, output_fisher_product
from hograd_core.curvature._model import Model, scalar_loss
from hograd_core.curvature.linear_operator import OperatorBase
from hograd_core.derivatives._autograd import grad_or_zeros, leaf
from hograd_core.hazards import guarded

OutputCurvature = Callable[[Model, Tensor, Tensor], Tensor]


def loss_hessian_product(model: Model, outputs: Tensor, u: Tensor, *, batched: bool = False) -> Tensor:
    """The Hessian of the loss by the outputs, applied to u (shaped like the outputs).

    In closed form for the losses that :mod:`._likelihood` knows, else by double backward. With ``batched``, u holds
    several such tensors along its first axis.
    """
    if not batched and fisher_is_hessian(model, outputs):
        return output_fisher_product(model, outputs, u)
    z = leaf(outputs)
    # The loss is differentiated twice, the module once.
    with guarded("Hessian of the loss", ("batched_rows" if batched else "double_backward", 2)):
        value = scalar_loss(model.loss, z, model.targets)
    gradient = grad_or_zeros(value, z, create_graph=True)
    return grad_or_zeros(gradient, z, create_graph=False, grad_outputs=u, batched=batched)


def gradient_of_loss(model: Model, outputs: Tensor) -> Tensor:
    """The gradient of the loss by the outputs, shaped like them."""
    z = leaf(outputs)
    return grad_or_zeros(scalar_loss(model.loss, z, model.targets), z, create_graph=False)


def pushed_and_pulled(model: Model, curvature: OutputCurvature, v: Tensor) -> Tensor:
    """J^T C J v: one pass in forward mode, C, one reverse pass."""
    with guarded("J v by forward mode (double_vjp does without)", ("nested_jvp", 1), constant=True, recorded=True):
        outputs, tangent = jvp(model.outputs, (model.point,), (v,))[:2]
        return pull(model, curvature(model, released(outputs), released(tangent)))


def transformed(model: Model, curvature: OutputCurvature, v: Tensor) -> Tensor:
    """J^T C J v by torch.func alone, whose vmap several v may go through: what does not depend on v is done once."""
    with guarded("J v by forward mode (double_vjp does without)", ("nested_jvp", 1), constant=True, recorded=True):
        outputs, pullback = torch.func.vjp(model.outputs, model.point)[:2]
        tangent = jvp(model.outputs, (model.point,), (v,))[1]
        found: Tensor = released(pullback(curvature(model, released(outputs), released(tangent)))[0])
        return found


def transformed_loss_hessian(model: Model, outputs: Tensor, u: Tensor) -> Tensor:
    """:func:`loss_hessian_product` by torch.func alone."""
    with guarded("Hessian of the loss", ("vjp_of_grad", 2)):
        gradient = torch.func.grad(lambda z: scalar_loss(model.loss, z, model.targets))
        found: Tensor = torch.func.vjp(gradient, outputs)[1](u)[0]
        return found


def pull(model: Model, cotangent: Tensor) -> Tensor:
    """J^T u in one reverse pass."""
    point = leaf(model.point)
    outputs = model.outputs(point)
    return grad_or_zeros(outputs, point, create_graph=False, grad_outputs=cotangent)


class JacobianProductOperator(OperatorBase):
    """v -> (J^T C J + damping I) v with one forward pass for all products.

    J v comes from differentiating the linear map w -> J^T w (the double-vjp trick), so no forward-mode formula is
    needed. Holds the graph of the outputs and of one backward pass until :meth:`close`; each product is
    two backward passes and C.

    Args:
        model: the bound model.
        curvature: (model, outputs, u) -> C u; the Hessian of the loss gives the Gauss-Newton matrix, the
            output Fisher the Fisher matrix.
        damping: multiple of the identity that is added.

    Attributes:
        products: products made so far.
    """

    @entrance
    def __init__(
        self, model: Model, curvature: OutputCurvature = output_fisher_product, *, damping: float = 0.0
    ) -> None:
        self.n = model.point.numel()
        self.dtype = model.point.dtype
        self.device = model.point.device
        self.products = 0
        self._model = model
        self._curvature = curvature
        self._damping = damping
        point = leaf(model.point)
        outputs = model.outputs(point)
        w = torch.zeros_like(outputs).requires_grad_()
        pulled = grad_or_zeros(outputs, point, create_graph=True, retain_graph=True, grad_outputs=w)
        self._graph: tuple[Tensor, Tensor, Tensor, Tensor] | None = (point, outputs, w, pulled)

    @entrance
    def matvec(self, v: Tensor) -> Tensor:
        """(J^T C J + damping I) v for v of shape (P,).

        Raises:
            RuntimeError: the operator was closed.
        """
        if self._graph is None:
            raise RuntimeError(f"{type(self).__name__}: used after close(); build a new one")
        self.products += 1
        point, outputs, w, pulled = self._graph
        tangent = grad_or_zeros(pulled, w, create_graph=False, retain_graph=True, grad_outputs=v)
        curved = self._curvature(self._model, released(outputs), tangent)
        product = grad_or_zeros(outputs, point, create_graph=False, retain_graph=True, grad_outputs=curved)
        return product + self._damping * v if self._damping else product

    def close(self) -> None:
        """Release the kept graph."""
        self._graph = None

    def __enter__(self) -> JacobianProductOperator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def full_jacobian(model: Model, chunk_size: int | None = None) -> tuple[Tensor, Tensor]:
    """(outputs, J): J of shape (*outputs.shape, P), row by row in reverse mode, vectorised over rows."""
    outputs, pullback = torch.func.vjp(model.outputs, model.point)[:2]

    def rows(part: slice) -> Tensor:
        found: Tensor = torch.func.vmap(pullback)(unit_rows(part, outputs).reshape(-1, *outputs.shape))[0]
        return found

    jacobian = in_chunks(rows, outputs.numel(), check_chunk_size(chunk_size)).reshape(*outputs.shape, -1)
    return released(outputs), released(jacobian)


def sample_rows(model: Model, factor: Tensor, part: slice = slice(None)) -> tuple[Tensor, ...]:
    """J_n^T S_kn for the samples n of ``part``: for every factor k a tensor of shape (samples, P).

    Vectorised over samples alone, with a sweep a factor: under nested vmap PyTorch's batching rules mix the two axes
    wherever their sizes coincide (PReLU's in 2.13, silently), and no rule has been found wrong under a single one.

    Args:
        model: the bound model; its outputs must not couple samples.
        factor: S, shape (K, *outputs.shape).
        part: the samples.

    Raises:
        UnsupportedError: a layer cannot be vectorised over samples.
    """

    def rows(cotangents: tuple[Tensor, ...], *sample: Tensor) -> tuple[Tensor, ...]:
        def of_sample(flat: Tensor) -> Tensor:
            return model.outputs(flat, tuple(each.unsqueeze(0) for each in sample))[0]

        pullback = torch.func.vjp(of_sample, model.point)[1]
        return tuple(pullback(cotangent)[0] for cotangent in cotangents)

    found = over_samples(rows, factor[:, part].unbind(0), *(each[part] for each in model.inputs))
    return tuple(released(each) for each in found)


def over_samples(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function`` vectorised over the first axis of its arguments, where PyTorch can.

    Raises:
        UnsupportedError: it fails under vmap by an error that PyTorch's own kernels raise there (recurrent layers:
            shapes that do not fit).
    """
    # The module and the loss have been called on the batch before; a mismatch of shapes is vmap's.
    with refused_under_vmap(
        "per-sample gradients",
        "use a method without it: per_sample_loop of empirical_fisher_*, jacobian of fisher_matrix, double_vjp or cg "
        "for products and solves",
    ):
        return torch.func.vmap(function)(*arguments)


def sample_chunks(model: Model, chunk_size: int | None) -> Iterator[slice]:
    """The batch in slices of at most ``chunk_size`` samples."""
    return slices(model.batch, check_chunk_size(chunk_size))
