"""Layers that multiply by a matrix: what goes in and what comes back, so that gradients need not be written out.

The gradient of a sample by the weight of such a layer is the sum over positions of g a^T, a the layer's input there and
g the gradient at its output (Goodfellow 2015; for convolutions Grosse & Martens 2016, §3.1).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from hograd_core.curvature._model import Loss, Model, scalar_loss
from hograd_core.curvature._precision import widened
from hograd_core.derivatives._autograd import leaf
from hograd_core.hazards import _graph
from hograd_core.prepare import assume, tracing

_MOST = 2**22
"""Entries of gradients of samples that are written out at a time, where a layer has several positions."""


def supported(layer: nn.Module) -> bool:
    """Whether a layer multiplies by its weight and nothing else."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and (layer.groups != 1 or layer.padding_mode != "zeros"):
        return False
    return type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d)


def gradients_at(
    root: Tensor, at: Sequence[Tensor], cotangent: Tensor | None, keep: bool, *, batched: bool = False
) -> list[Tensor]:
    """The gradients of a root by the layers' outputs; zero for a layer that ran under no_grad.

    With ``batched``, of several cotangents at once, along a first axis.
    """
    on = [output for output in at if output.requires_grad]
    many = (len(cotangent),) if batched and cotangent is not None else ()
    zeros = [
        output.new_zeros(*many, *output.shape) for output in at if not output.requires_grad or not root.requires_grad
    ]
    if not on or not root.requires_grad:
        return zeros
    found = iter(
        torch.autograd.grad(root, on, cotangent, retain_graph=keep, materialize_grads=True, is_grads_batched=batched)
    )
    rest = iter(zeros)
    return [next(found) if output.requires_grad else next(rest) for output in at]


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


Passes = tuple[Tensor, Tensor | None]
"""What is differentiated, and its cotangents, along a first axis; None: it is a number."""


def squared_gradients(model: Model, passes: Callable[[Tensor, Tensor], Passes]) -> tuple[Tensor, Tensor | None]:
    """Sums over samples and passes of the squares of a sample's gradient, and which entries of (P,) they are known for.

    For layers of a weight and a bias, called once, no sample's gradient is formed where they have one position: squares
    of g a^T are products of squares. Where the graph does not show that a sum of g a^T is the gradient, it is held
    against the one that autograd gives, along random vectors: where a parameter is used elsewhere too, or a hook
    changes what a layer gives, its entries are not known.

    Args:
        model: the bound model.
        passes: (loss, outputs) -> what to differentiate and by which cotangents; samples must not be coupled.

    Returns:
        The sums, (P,), zero where unknown, and a bool mask of what is known, (P,); None: all of it.
    """
    layers = {name: layer for name, layer in model.module.named_modules() if supported(layer)}
    records: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}
    flat, dtype, held = leaf(model.point), model.point.dtype, []

    def body(module: nn.Module, loss: Loss) -> Tensor:
        held.append(model._outputs_of(module, model.inputs))
        return scalar_loss(loss, held[0], model.targets)

    hooks = {name: recorder(records[name]) for name in layers}
    weights = model.unflatten(flat)
    value = model.function.evaluate(weights, body, model.inputs, hooks, what="loss")
    sites = {
        name: (received, output)
        for name, calls in records.items()
        for received, output in calls
        if len(calls) == 1 and output.requires_grad and _by_sample(model, held[0], received, output)
    }
    columns = {name: input_rows(layers[name], received.detach().to(dtype)) for name, (received, _) in sites.items()}
    offsets = dict(zip(model.names, accumulate(model.sizes, initial=0), strict=False))
    at = [output for _, output in sites.values()]
    root, cotangents = passes(value, held[0])
    readers = _readers([value, held[0]])
    doubted = {
        key
        for name, (received, output) in sites.items()
        for key, _ in _factors(name, columns[name], offsets)
        if not _only_here(weights[key], received, output, readers)
    }
    seen: list[Tensor] = []
    if cotangents is None or doubted:
        # Of several passes one mixture is held against autograd's gradient.
        mixed = None
        if cotangents is not None:
            mixed = torch.tensordot(_direction(len(cotangents), 0).to(cotangents), cotangents, 1)
        seen = gradients_at(root, [*at, flat] if doubted else at, mixed, cotangents is not None)
    several: Iterable[list[Tensor]]
    if cotangents is None:
        several = [[gradient[None] for gradient in seen]]
    elif tracing():
        several = [gradients_at(root, at, cotangents, False, batched=True)]
    else:
        several = ([g[None] for g in gradients_at(root, at, c, True)] for c in cotangents)
    found: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    for part in several:
        for (name, column), each in zip(columns.items(), part, strict=False):
            every = [output_rows(layers[name], gradient.to(dtype)) for gradient in each]
            if column.shape[1] == 1:  # squares of g aᵀ are products of squares, and those of g add up
                added = widened(torch.stack(every)).square().sum((0, 2))
                squares[name] = squares[name] + added if name in squares else added
                continue
            for key, factor in _factors(name, column, offsets):
                total = torch.stack([_summed_squares(rows, factor) for rows in every]).sum(0)
                found[key] = found[key] + total if key in found else total
    wrong: set[str] = set()
    for i, (name, column) in enumerate(columns.items()):
        for key, factor in _factors(name, column, offsets):
            if name in squares:
                found[key] = squares[name].T @ widened(factor)[:, 0].square()
            if key in doubted:
                rows = output_rows(layers[name], seen[i].to(dtype))
                if not _agree(rows, factor, _part(seen[-1], offsets[key], rows.shape[2], factor.shape[2])):
                    wrong.add(key)
    right = {key: squares for key, squares in found.items() if key not in wrong}
    sized = list(zip(model.names, model.sizes, strict=True))
    sums = torch.cat([right[k].reshape(-1).to(dtype) if k in right else flat.new_zeros(size) for k, size in sized])
    if len(right) == len(model.names):
        return sums, None
    return sums, torch.cat([flat.new_full((size,), k in right, dtype=torch.bool) for k, size in sized])


def _readers(results: Sequence[Tensor]) -> dict[Any, list[Any]]:
    """Of each node behind results those that read what it gave."""
    found: dict[Any, list[Any]] = {}
    for node in _graph.nodes(_graph.recorded(results)):
        for before, _ in node.next_functions:
            found.setdefault(before, []).append(node)
    return found


def _only_here(weight: Tensor, received: Tensor, output: Tensor, readers: dict[Any, list[Any]]) -> bool:
    """Whether the graph shows that a weight or bias goes into the ``addmm`` of what its layer received, and only there.

    Then the sum of g a^T is its gradient at all values. A hook on the weight, or an input that was overwritten, is none
    of what is shown.
    """
    product, bias = output.grad_fn, weight.dim() == 1
    if product is None or product.name() != "AddmmBackward0" or weight._backward_hooks is not None:
        return False
    at, behind = 0 if bias else 2, weight.grad_fn
    if not bias:
        (behind, *others) = readers.get(behind, [None])
        if others or behind is None or behind.name() != "TBackward0":
            return False
    if readers.get(behind) != [product] or product.next_functions[at][0] is not behind:
        return False
    try:
        given = product._saved_mat1  # type: ignore[attr-defined]
    except RuntimeError:  # overwritten meanwhile
        return False
    if given is None or (product._saved_alpha, product._saved_beta) != (1, 1):  # type: ignore[attr-defined]
        return False
    with _disable_current_modes():  # of whoever traces this
        return bool(given.is_set_to(received.detach()))


def _factors(name: str, column: Tensor, keys: Container[str]) -> Iterator[tuple[str, Tensor]]:
    """What gradients at a layer's outputs are multiplied by to be those of its weight and of its bias."""
    for kind in ("weight", "bias"):
        key = f"{name}.{kind}".lstrip(".")
        if key in keys:
            yield key, column if kind == "weight" else column.new_ones(*column.shape[:2], 1)


def _part(whole: Tensor, start: int, rows: int, columns: int) -> Tensor:
    return whole[start : start + rows * columns].reshape(rows, columns)


def _by_sample(model: Model, outputs: Tensor, received: Tensor, output: Tensor) -> bool:
    """Whether a layer's first axis counts samples: certain by its shape, or seen in the gradient of one sample."""
    n = model.batch
    if received.shape[:1] != (n,) or output.shape[:1] != (n,):
        return False
    # Where samples lie on another axis, that is of a multiple of their number.
    if n == 1 or received.dim() == 2 or all(size % n for size in received.shape[1:]):
        return True
    (gradient,) = torch.autograd.grad(outputs[0].sum(), output, retain_graph=True, materialize_grads=True)
    return assume(~gradient[1:].any())


def _summed_squares(rows: Tensor, columns: Tensor) -> Tensor:
    """Sum over samples of the squares of sum over several positions of g a^T, (out, in)."""
    rows, columns = widened(rows), widened(columns)
    if columns.shape[2] == 1:
        return (rows.mT @ columns).square().sum(0)
    size = max(1, _MOST // (rows.shape[2] * columns.shape[2]))
    parts = zip(rows.split(size), columns.split(size), strict=True)  # type: ignore[no-untyped-call]
    return torch.stack([(r.mT @ c).square().sum(0) for r, c in parts]).sum(0)


def _agree(rows: Tensor, columns: Tensor, gradient: Tensor) -> bool:
    """Whether the sum of g a^T is the gradient, seen along two random vectors."""
    rows, columns, gradient = (t.flatten(0, 1) if t.dim() == 3 else t for t in map(widened, (rows, columns, gradient)))
    u, v = (_direction(size, i).to(gradient) for i, size in enumerate(gradient.shape))
    terms = (rows @ u) * (columns @ v)
    scale = ((rows.abs() @ u.abs()) * (columns.abs() @ v.abs())).sum()
    eps = torch.finfo(rows.dtype).eps
    return assume((terms.sum() - (u * (gradient @ v)).sum()).abs() <= eps**0.5 * scale)


@functools.lru_cache(maxsize=64)  # bounded: batches and layers may be of any number of sizes, each as large as they
def _direction(size: int, seed: int) -> Tensor:
    with _disable_current_modes():  # a number, also for who traces this
        return torch.randn(size, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
