"""BackPACK: second-order quantities layer by layer in one backward pass (Dangel, Kunstner & Hennig 2020)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hograd_bench.peers._contract import Peer, Prepared, Task

PEER = Peer(
    "backpack",
    distribution="backpack-for-pytorch",
    home="f-dangel/backpack",
    requires=("backpack-for-pytorch", "einops", "unfoldNd"),
)


_FORWARD = "forward pass timed with it"
_GRADIENT = "the gradient comes with it"


def _forward(task: Task) -> tuple[Tensor, Tensor, list[nn.Parameter]]:
    module = task.extra("module")
    output = module(task.extra("inputs"))
    loss = task.loss_module(output, task.extra("targets"))
    return loss, output, [p for p in module.parameters() if p.requires_grad]


def _value(task: Task) -> float:
    return _forward(task)[0].item()


@PEER.method("hvp", "hessianfree.hvp.hessian_vector_product", note=_FORWARD)
def hvp(task: Task) -> Prepared:
    """The gradient, then the R-operator emulated by two backward passes."""
    from backpack.hessianfree.hvp import hessian_vector_product

    direction = task.split(task.v)

    def call() -> Any:
        loss, _, parameters = _forward(task)
        return hessian_vector_product(loss, parameters, direction)

    return Prepared(call, lambda: _value(task))


@PEER.method("gauss_newton_vector_product", "hessianfree.ggnvp.ggn_vector_product", note=_FORWARD)
def gauss_newton(task: Task) -> Prepared:
    """The R-operator, the loss's Hessian, a backward pass."""
    from backpack.hessianfree.ggnvp import ggn_vector_product_from_plist

    direction = task.split(task.v)

    def call() -> Any:
        loss, output, parameters = _forward(task)
        return ggn_vector_product_from_plist(loss, output, parameters, direction)

    return Prepared(call, lambda: _value(task))


def _extension(task: Task, name: str, scale: float = 1.0) -> Prepared:
    """One backward pass with an extension; its result lies in an attribute of every parameter."""
    import backpack
    from backpack import extensions

    # A copy: extend() puts hooks on the module that others of this process share.
    module = backpack.extend(copy.deepcopy(task.extra("module")))
    loss_module = backpack.extend(task.loss_module)
    inputs, targets = task.extra("inputs"), task.extra("targets")
    extension: Callable[[], Any] = getattr(extensions, name)
    field = extension().savefield
    parameters = list(module.parameters())

    def call() -> list[Tensor]:
        with backpack.backpack(extension()):
            loss_module(module(inputs), targets).backward()
        results = [getattr(p, field).detach() for p in parameters]
        for p in parameters:  # as an optimiser's zero_grad() and the next pass would
            p.grad = None
            delattr(p, field)
        return results if scale == 1.0 else [r.mul_(scale) for r in results]

    return Prepared(call, lambda: _value(task))


@PEER.method("hessian_diagonal", "extensions.DiagHessian", note=_GRADIENT)
def hessian_diagonal(task: Task) -> Prepared:
    """The exact diagonal, propagated through the layers with the residual terms of the activations."""
    return _extension(task, "DiagHessian")


@PEER.method("empirical_fisher_diagonal", "extensions.SumGradSquared, times N", note=_GRADIENT)
def empirical_fisher_diagonal(task: Task) -> Prepared:
    """Sums of squares of the gradients of loss_n / N; N times that is the mean of squares."""
    return _extension(task, "SumGradSquared", float(len(task.extra("targets"))))


@PEER.method("fisher_diagonal", "extensions.DiagGGNExact", note=_GRADIENT)
def fisher_diagonal(task: Task) -> Prepared:
    """The diagonal of the Gauss-Newton matrix, which is Fisher's for the softmax cross-entropy."""
    if not isinstance(task.loss_module, nn.CrossEntropyLoss):
        raise LookupError("loss: the Gauss-Newton matrix is Fisher's matrix for the cross-entropy; other losses differ")
    return _extension(task, "DiagGGNExact")
