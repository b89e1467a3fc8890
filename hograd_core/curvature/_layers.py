"""Layers that multiply by a matrix: what goes in and what comes back, so that gradients need not be written out.

The gradient of a sample by the weight of such a layer is the sum over positions of g a^T, a the layer's input there and
g the gradient at its output (Goodfellow 2015; for convolutions Grosse & Martens 2016, §3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hograd_core.curvature._model import Loss, Model, scalar_loss
from hograd_core.curvature._precision import widened
from hograd_core.derivatives._autograd import leaf

_MOST = 2**22
"""Entries of gradients of samples that are written out at a time, where a layer has several positions."""


def supported(layer: nn.Module) -> bool:
    """Whether a layer multiplies by its weight and nothing else."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and (layer.groups != 1 or layer.padding_mode != "zeros"):
        return False
    return type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d)


def gradients_at(root: Tensor, at: Sequence[Tensor], cotangent: Tensor | None, keep: bool) -> list[Tensor]:
    """The gradients of a root by the layers' outputs; zero for a layer that ran under no_grad."""
    on = [output for output in at if output.requires_grad]
    if not on or not root.requires_grad:
        return [torch.zeros_like(output) for output in at]
    found = iter(torch.autograd.grad(root, on, cotangent, retain_graph=keep, materialize_grads=True))
    return [next(found) if output.requires_grad else torch.zeros_like(output) for output in at]


def trains(layer: nn.Module, leaf: str) -> bool:
    parameter = getattr(layer, leaf)
    return parameter is not None and parameter.requires_grad


def recorder(calls: list[tuple[Tensor, Tensor]]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A forward hook that collects a layer's (input, output)."""

    def record(layer: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        if arguments:
            calls.append((arguments[0], output))
        # A copy goes on: an in-place activation would otherwise overwrite what was recorded.
        return output.clone()

    return record


def input_rows(layer: nn.Module, received: Tensor) -> Tensor:
    """(N, positions, in) inputs of the layer's matrix product."""
    if isinstance(layer, nn.Linear):
        return received.reshape(received.shape[0], -1, received.shape[-1])
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    # As the convolution itself pads: "same" may be one more on the right.
    padded = F.pad(received, layer._reversed_padding_repeated_twice) if layer.padding != "valid" else received
    if isinstance(layer, nn.Conv1d):
        padded = padded.unsqueeze(2)
        kernel, stride, dilation = (1, *kernel), (1, *stride), (1, *dilation)
    return F.unfold(padded, kernel, dilation, 0, stride).transpose(1, 2)


def output_rows(layer: nn.Module, gradient: Tensor) -> Tensor:
    """(N, positions, out) gradients at the layer's outputs."""
    if isinstance(layer, nn.Linear):
        return gradient.reshape(gradient.shape[0], -1, gradient.shape[-1])
    return gradient.flatten(2).transpose(1, 2)


Pass = tuple[Tensor, Tensor | None]
"""What is differentiated, and its cotangent."""


def squared_gradients(model: Model, passes: Callable[[Tensor, Tensor], Sequence[Pass]]) -> tuple[Tensor, Tensor]:
    """Sums over samples and passes of the squares of a sample's gradient, and which entries of (P,) they are known for.

    For layers of a weight and a bias, called once, no sample's gradient is formed where they have one position: squares
    of g a^T are products of squares. Sums of g a^T are held against the gradient that autograd gives, along random
    vectors: where a parameter is used elsewhere too, or a hook changes what a layer gives, its entries are not known.

    Args:
        model: the bound model.
        passes: (loss, outputs) -> what to differentiate and by which cotangents; samples must not be coupled.

    Returns:
        The sums, (P,), zero where unknown, and a bool mask, (P,).
    """
    layers = {name: layer for name, layer in model.module.named_modules() if supported(layer)}
    records: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}
    flat, dtype, held = leaf(model.point), model.point.dtype, []

    def body(module: nn.Module, loss: Loss) -> Tensor:
        held.append(model._outputs_of(module, model.inputs))
        return scalar_loss(loss, held[0], model.targets)

    hooks = {name: recorder(records[name]) for name in layers}
    value = model.function.evaluate(model.unflatten(flat), body, model.inputs, hooks, what="loss")
    sites = {
        name: (received, output)
        for name, calls in records.items()
        for received, output in calls
        if len(calls) == 1 and output.requires_grad and _by_sample(model, held[0], received, output)
    }
    columns = {name: input_rows(layers[name], received.detach().to(dtype)) for name, (received, _) in sites.items()}
    place = model.unflatten(torch.arange(flat.numel(), device=flat.device))
    found: dict[str, Tensor] = {}
    wrong: set[str] = set()
    every = passes(value, held[0])
    for k, (root, cotangent) in enumerate(every):
        at = [flat, *(output for _, output in sites.values())]
        whole, *gradients = gradients_at(root, at, cotangent, k + 1 < len(every))
        for (name, column), gradient in zip(columns.items(), gradients, strict=True):
            rows = output_rows(layers[name], gradient.to(dtype))
            for kind, factor in (("weight", column), ("bias", column.new_ones(*column.shape[:2], 1))):
                key = f"{name}.{kind}".lstrip(".")
                if key not in place:
                    continue
                squares = _summed_squares(rows, factor)
                found[key] = found[key] + squares if key in found else squares
                if not _agree(rows, factor, whole[place[key].reshape(-1)].reshape(rows.shape[2], -1)):
                    wrong.add(key)
    sums, known = torch.zeros_like(model.point), torch.zeros(flat.shape, dtype=torch.bool, device=flat.device)
    for key in found.keys() - wrong:
        index = place[key].reshape(-1)
        sums[index], known[index] = found[key].reshape(-1).to(dtype), True
    return sums, known


def _by_sample(model: Model, outputs: Tensor, received: Tensor, output: Tensor) -> bool:
    """Whether a layer's first axis counts samples: certain by its shape, or seen in the gradient of one sample."""
    n = model.batch
    if received.shape[:1] != (n,) or output.shape[:1] != (n,):
        return False
    # Where samples lie on another axis, that is of a multiple of their number.
    if n == 1 or received.dim() == 2 or all(size % n for size in received.shape[1:]):
        return True
    (gradient,) = torch.autograd.grad(outputs[0].sum(), output, retain_graph=True, materialize_grads=True)
    return not bool(gradient[1:].any())


def _summed_squares(rows: Tensor, columns: Tensor) -> Tensor:
    """Sum over samples of the squares of sum over positions of g a^T, (out, in)."""
    rows, columns = widened(rows), widened(columns)
    if rows.shape[1] == 1:
        return rows[:, 0].square().T @ columns[:, 0].square()
    if columns.shape[2] == 1:
        return (rows.mT @ columns).square().sum(0)
    size = max(1, _MOST // (rows.shape[2] * columns.shape[2]))
    parts = zip(rows.split(size), columns.split(size), strict=True)  # type: ignore[no-untyped-call]
    return torch.stack([(r.mT @ c).square().sum(0) for r, c in parts]).sum(0)


def _agree(rows: Tensor, columns: Tensor, gradient: Tensor) -> bool:
    """Whether the sum of g a^T is the gradient, seen along two random vectors."""
    rows, columns, gradient = (t.flatten(0, 1) if t.dim() == 3 else t for t in map(widened, (rows, columns, gradient)))
    source = torch.Generator("cpu").manual_seed(0)
    u, v = (torch.randn(size, generator=source, device="cpu").to(gradient) for size in gradient.shape)
    terms = (rows @ u) * (columns @ v)
    scale = (rows.abs() @ u.abs()) @ (columns.abs() @ v.abs())
    eps = torch.finfo(rows.dtype).eps
    return bool((terms.sum() - u @ gradient @ v).abs() <= eps**0.5 * scale)
