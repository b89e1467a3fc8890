"""The Jacobian J of a model's outputs by its parameters: products, rows, and J^T C J as an operator."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import torch
from torch import Tensor

from hograd_core._checks import check_positive
from hograd_core.curvature._likelihood import output_fisher_product
from hograd_core.curvature._model import Model, scalar_loss
from hograd_core.derivatives._autograd import grad_or_zeros, leaf

OutputCurvature = Callable[[Model, Tensor, Tensor], Tensor]


def loss_hessian_product(model: Model, outputs: Tensor, u: Tensor, *, batched: bool = False) -> Tensor:
    """The Hessian of the loss by the outputs, applied to u (shaped like the outputs), by double backward.

    With ``batched``, u holds several such tensors along its first axis.
    """
    with torch.enable_grad():
        z = leaf(outputs)
        gradient = grad_or_zeros(scalar_loss(model.loss, z, model.targets), z, create_graph=True)
    return grad_or_zeros(gradient, z, create_graph=False, grad_outputs=u, batched=batched)


def push(model: Model, v: Tensor) -> tuple[Tensor, Tensor]:
    """(outputs, J v) in one forward-mode pass."""
    with torch.no_grad():
        pair: tuple[Tensor, Tensor] = torch.func.jvp(model.outputs, (model.point,), (v,))  # type: ignore[assignment]
    return pair


def pull(model: Model, cotangent: Tensor) -> Tensor:
    """J^T u in one reverse pass."""
    with torch.enable_grad():
        point = leaf(model.point)
        outputs = model.outputs(point)
    return grad_or_zeros(outputs, point, create_graph=False, grad_outputs=cotangent)


class JacobianProductOperator:
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
        with torch.enable_grad():
            point = leaf(model.point)
            outputs = model.outputs(point)
            w = torch.zeros_like(outputs).requires_grad_()
            pulled = grad_or_zeros(outputs, point, create_graph=True, retain_graph=True, grad_outputs=w)
        self._graph: tuple[Tensor, Tensor, Tensor, Tensor] | None = (point, outputs, w, pulled)

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
        curved = self._curvature(self._model, outputs.detach(), tangent)
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
    if chunk_size is not None:
        check_positive(chunk_size, "chunk_size")

    def twice(flat: Tensor) -> tuple[Tensor, Tensor]:
        outputs = model.outputs(flat)
        return outputs, outputs

    with torch.no_grad():
        jacobian, outputs = torch.func.jacrev(twice, has_aux=True, chunk_size=chunk_size)(model.point)
    return outputs, jacobian


def sample_rows(model: Model, factor: Tensor, chunk_size: int | None = None) -> Tensor:
    """J_n^T S_kn for every sample n and factor k, sample by sample.

    Args:
        model: the bound model; its outputs must not couple samples.
        factor: S, shape (K, *outputs.shape).
        chunk_size: samples at a time (default: all).

    Returns:
        Shape (N, K, P).
    """

    def rows(cotangents: Tensor, *sample: Tensor) -> Tensor:
        def of_sample(flat: Tensor) -> Tensor:
            return model.outputs(flat, tuple(part.unsqueeze(0) for part in sample))[0]

        pullback = torch.func.vjp(of_sample, model.point)[1]
        pulled: tuple[Tensor] = torch.func.vmap(pullback)(cotangents)
        return pulled[0]

    in_dims = (1, *(0 for _ in model.inputs))
    with torch.no_grad():
        result: Tensor = torch.func.vmap(rows, in_dims=in_dims, chunk_size=chunk_size)(factor, *model.inputs)
    return result


def sample_chunks(model: Model, chunk_size: int | None) -> list[slice]:
    """The batch in slices of at most ``chunk_size`` samples."""
    step = model.batch if chunk_size is None else check_positive(chunk_size, "chunk_size")
    return [slice(start, min(start + step, model.batch)) for start in range(0, model.batch, step)]
