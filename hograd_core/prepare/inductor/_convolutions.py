"""Small convolutions and the gradients of their kernels, by loops of their own.

A convolution library lays its input, kernel and result out anew, which of small ones takes longer than to convolve,
and does hardly any of it on several threads. :mod:`._convolution_sources` has the code, :mod:`._taps` which element
meets which.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hograd_core.prepare.graphs._nodes import aten, insert, is_call, replace, value
from hograd_core.prepare.inductor._convolution_sources import CONVOLUTION, KERNEL_GRADIENT
from hograd_core.prepare.inductor._loops import Plan, may_be_served, operation, teach
from hograd_core.prepare.inductor._taps import padded

_KERNEL, _IMAGE = 2**15, 2**16
"""Elements of a kernel, and of a padded input, up to which these loops are as quick as a convolution library."""
_TAPS, _PARTS = 2**8, 2**6
"""Elements of a kernel for one channel, and phases of a transposed convolution, up to which their tables are short."""
_FILES = __file__, inspect.getfile(padded)
_WORTH_A_THREAD = 2**17
"""Multiplications a thread from which images are shared out."""

Sizes = Callable[[Any], list[int]]


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, result: list[int], stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool,
) -> Tensor:  # fmt: skip
    more = [0, 0]
    if transposed:
        plain = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(x.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True)
        ]
        more = [size - least for size, least in zip(result, plain, strict=True)]
    found: Tensor = aten.convolution(x, weight, bias, stride, padding, dilation, transposed, more, 1)
    return found.contiguous()


def _kernel_gradient(
    x: Tensor, gradient: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> Tensor:
    """Σ over images and places of a gradient times the elements of x that each element of the kernel meets there."""
    whole: Tensor = aten.convolution(
        x.transpose(0, 1), gradient.transpose(0, 1), None, dilation, padding, stride, False, [0, 0], 1
    )
    return whole[:, :, : kernel[0], : kernel[1]].transpose(0, 1).contiguous()


_CONVOLUTION = operation(
    "convolution(Tensor x, Tensor weight, Tensor? bias, int[] result, int[] stride, int[] padding, int[] dilation, "
    "bool transposed) -> Tensor",
    _convolution, CONVOLUTION, *_FILES,
)  # fmt: skip
_KERNEL_GRADIENT = operation(
    "kernel_gradient(Tensor x, Tensor gradient, int[] kernel, int[] stride, int[] padding, int[] dilation) -> Tensor",
    _kernel_gradient, KERNEL_GRADIENT, *_FILES,
)  # fmt: skip


def use_convolutions(module: GraphModule) -> None:
    """Put the loops in the place of convolutions, and of gradients of such, that they serve; in place."""
    graph = module.graph
    for node in list(graph.nodes):
        if is_call(node, aten.convolution.default, aten.convolution_backward.default):
            _as_images(node)
    for node in list(graph.nodes):
        if is_call(node, aten.convolution.default):
            _serve(node)
        elif is_call(node, aten.convolution_backward.default):
            _serve_gradients(node)
    graph.eliminate_dead_code()
    if any(is_call(node, _CONVOLUTION, _KERNEL_GRADIENT) for node in graph.nodes):
        _register()
        module.recompile()


def _as_images(node: Node) -> None:
    """A convolution of sequences, or its gradients, as one of images of one row, as a library takes it, too."""
    count = 3 if is_call(node, aten.convolution_backward.default) else 2
    tensors: Any = node.args[:count]
    other, stride, padding, dilation, transposed, more, groups, *mask = node.args[count:]
    if value(tensors[0]).dim() != 3 or not may_be_served(tensors[0]):
        return

    def image(tensor: Node) -> Node:
        if _exchanged(tensor):
            return insert(node, aten.permute.default, image(_origin(tensor)), [1, 0, 2, 3])
        return insert(node, aten.unsqueeze.default, tensor, 2)

    def row(of_images: Node) -> Node:
        return insert(node, aten.squeeze.dim, of_images, 2)

    target: Any = node.target
    settings = ([1, *stride], [0, *padding], [1, *dilation], transposed, [0, *more], groups)  # type: ignore[misc]
    made = insert(node, target, *map(image, tensors), other, *settings, *mask)
    if count == 2:
        replace(node, row(made))
        return
    for read in list(node.users):
        if not read.users:  # what is not asked for is None
            node.graph.erase_node(read)
            continue
        part = insert(node, operator.getitem, made, read.args[1])
        replace(read, part if read.args[1] == 2 else row(part))
    node.graph.erase_node(node)


def _serve(node: Node) -> None:
    x, weight, bias, *settings = node.args
    stride, padding, dilation, transposed, _, groups = settings
    if groups != 1 or not may_be_served(node) or value(node).dim() != 4 or not value(node).is_contiguous():
        return
    if not transposed and bias is None and all(map(_exchanged, (x, weight))):  # a kernel's gradient
        given = _origin(x), _origin(weight), list(value(node).shape[2:]), dilation, padding, stride
        made = _gradient_of_kernel(node, *given)
        if made is not None:
            replace(
                node,
                insert(
                    node,
                    aten.clone.default,
                    insert(node, aten.permute.default, made, [1, 0, 2, 3]),
                    memory_format=torch.contiguous_format,
                ),
            )
            return
    made = _convolved(node, x, weight, bias, list(value(node).shape[2:]), stride, padding, dilation, transposed)
    if made is not None:
        replace(node, made)


def _exchanged(node: Any) -> bool:
    return (
        is_call(node, aten.permute.default) and list(node.args[1])[:2] == [1, 0] and value(node.args[0]).is_contiguous()
    )


def _origin(node: Any) -> Node:
    origin: Node = node.args[0]
    return origin


def _serve_gradients(node: Node) -> None:
    gradient, x, weight, _, stride, padding, dilation, transposed, _, groups, _ = node.args
    reads = [read for read in node.users if value(read) is not None]  # None: it is not asked for
    if groups != 1 or value(gradient).dim() != 4:
        return
    if not all(may_be_served(read) and value(read).is_contiguous() for read in reads):
        return
    how = stride, padding, dilation
    over, by = (gradient, x) if transposed else (x, gradient)
    makers: list[Callable[[], Node | None]] = [
        lambda: _convolved(node, gradient, weight, None, list(value(x).shape[2:]), *how, not transposed),
        lambda: _gradient_of_kernel(node, over, by, list(value(weight).shape[2:]), *how),
        lambda: insert(node, aten.sum.dim_IntList, gradient, [0, 2, 3]),
    ]
    left = [i in [read.args[1] for read in reads] for i in range(3)]
    for i in [i for i in range(3) if left[i]]:
        made = makers[i]()
        if made is not None:
            left[i] = False
            for read in [read for read in reads if read.args[1] == i]:
                replace(read, made)
    node.args = (*node.args[:-1], left)


def _is_small(kernel: Sequence[int]) -> bool:
    return 0 < math.prod(kernel) <= _KERNEL and math.prod(kernel[2:]) <= _TAPS


def _convolved(
    here: Node,
    x: Any,
    weight: Any,
    bias: Any,
    result: list[int],
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: Any,
) -> Node | None:
    """A convolution by the loop, before a node; None: it is no small one."""
    shape = value(weight).shape
    if not _is_small(shape) or not value(x).numel() or not min(result):
        return None
    plan = padded(value(x).shape[2:], shape[2:], result, stride, padding, dilation, transposed)
    if value(x).shape[1] * plan.elements > _IMAGE or len(plan.parts) > _PARTS:
        return None
    return insert(here, _CONVOLUTION, x, weight, bias, result, list(stride), list(padding), list(dilation), transposed)


def _gradient_of_kernel(
    here: Node, x: Any, gradient: Any, kernel: list[int], stride: Any, padding: Any, dilation: Any
) -> Node | None:
    """The gradient of a kernel by the loop, before a node; None: it is no small one."""
    (_, channels, *sizes), (_, outputs, *result) = value(x).shape, value(gradient).shape
    if not _is_small([outputs, channels, *kernel]) or not value(x).numel() or not value(gradient).numel():
        return None
    plan = padded(sizes, kernel, _reach(result, stride), [1, 1], padding, dilation, False)
    return (
        None
        if max(channels * plan.elements, outputs * result[0] * result[1]) > _IMAGE
        else insert(here, _KERNEL_GRADIENT, x, gradient, kernel, list(stride), list(padding), list(dilation))
    )


def _reach(result: list[int], stride: Any) -> list[int]:
    """Places from the first result to the last, in the padded input."""
    return [(n - 1) * s + 1 for n, s in zip(result, stride, strict=True)]


def _threads(most: int, batch: int, work: int) -> int:
    return max(1, min(most, batch, batch * work // _WORTH_A_THREAD))


@functools.cache
def _register() -> None:
    teach(_CONVOLUTION, CONVOLUTION, _plan_of_convolution)
    teach(_KERNEL_GRADIENT, KERNEL_GRADIENT, _plan_of_gradient)


def _plan_of_convolution(
    sizes: Sizes, x: Any, weight: Any, bias: Any, result: list[int], stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool,
) -> Plan:  # fmt: skip
    batch, channels, *size = sizes(x)
    kernel = sizes(weight)[2:]
    outputs, taps = sizes(weight)[int(transposed)], kernel[0] * kernel[1]
    plan = padded(size, kernel, result, stride, padding, dilation, transposed)
    steps = (taps, outputs * taps) if transposed else (channels * taps, taps)

    def details(threads: int) -> dict[str, Any]:
        work = channels * outputs * sum(len(p.taps) * math.prod(p.count) for p in plan.parts)
        met = [tap for p in plan.parts for tap in p.taps]
        starts = itertools.accumulate((len(p.taps) for p in plan.parts), initial=0)
        parts = [(i, len(p.taps), *p.count, *p.first) for i, p in zip(starts, plan.parts, strict=False)]
        return {
            "batch": batch, "channels": channels, "outputs": outputs, "size": size, "result": result, "plan": plan,
            "met": met, "parts": parts, "step": plan.parts[0].step, "steps": steps, "biased": bias is not None,
            "threads": _threads(threads, batch, work),
        }  # fmt: skip

    return [t for t in (x, weight, bias) if t is not None], [batch, outputs, *result], details


def _plan_of_gradient(
    sizes: Sizes, x: Any, gradient: Any, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> Plan:
    (batch, channels, *size), (_, outputs, *result) = sizes(x), sizes(gradient)
    plan = padded(size, kernel, _reach(result, stride), [1, 1], padding, dilation, False)

    def details(threads: int) -> dict[str, Any]:
        work = channels * outputs * result[0] * result[1] * kernel[0] * kernel[1]
        return {
            "batch": batch, "channels": channels, "outputs": outputs, "size": size, "result": result, "taps": kernel,
            "stride": stride, "dilation": dilation, "plan": plan, "threads": _threads(threads, batch, work),
        }  # fmt: skip

    return [x, gradient], [outputs, channels, *kernel], details
