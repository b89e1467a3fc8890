"""Cleaning, of what is made of zeros and ones: fillings that are plain to see, pieces laid into zeros and added up."""

from __future__ import annotations

from typing import Any, cast

from torch.fx import Graph, Node

from hograd_core.prepare.graphs._nodes import aten, insert, is_call, replace, value
from hograd_core.prepare.graphs._views import ALIASES, SAME

_FULL = {
    aten.zeros.default: 0, aten.zeros_like.default: 0, aten.new_zeros.default: 0, aten._efficientzerotensor.default: 0,
    aten.ones.default: 1, aten.ones_like.default: 1, aten.new_ones.default: 1,
    aten.full.default: None, aten.full_like.default: None, aten.new_full.default: None,
}  # fmt: skip


def filling(node: Any) -> float | None:
    """The number that all elements of a node have, where that is plain to see."""
    while is_call(node, *SAME, *ALIASES) and not is_call(node, aten.constant_pad_nd.default):
        node = node.args[0]
    if not is_call(node) or node.target not in _FULL:
        return None
    number = _FULL[node.target]
    number = node.args[1] if number is None and node.target is not aten.new_full.default else number
    number = node.args[2] if number is None else number
    return float(number) if isinstance(number, int | float) else None


def backward_of_slice(node: Node) -> None:
    """A slice laid into zeros is a pad; no slice ends beyond its dimension, up to where vmap would count."""
    arguments: dict[str, Any] = {
        **dict(zip(("into", "source", "dim", "start", "end", "step"), node.args, strict=False)), **node.kwargs
    }  # fmt: skip
    into, source = arguments["into"], arguments["source"]
    dims = value(node).dim()
    d = int(arguments.get("dim", 0)) % dims
    length, part, start = value(node).shape[d], value(source).shape[d], int(arguments.get("start") or 0)
    if (arguments.get("end") or 0) > length:
        node.args, node.kwargs = (into, source, d, start, length, arguments.get("step", 1)), {}
    if filling(into) != 0 or value(source).dtype != value(node).dtype:
        return
    if arguments.get("step") not in (None, 1):
        return
    start = min(max(start + length if start < 0 else start, 0), length)
    pad = _padding(dims, d, start, length - start - part)
    replace(node, insert(node, aten.constant_pad_nd.default, source, pad))


def backward_of_select(node: Node) -> None:
    """A row laid into zeros is a pad."""
    into, source, d, index = cast("Any", node.args)
    if filling(into) != 0 or value(source).dtype != value(node).dtype:
        return
    dims = value(node).dim()
    d %= dims
    length = value(node).shape[d]
    index %= length
    row = insert(node, aten.unsqueeze.default, source, d)
    replace(node, insert(node, aten.constant_pad_nd.default, row, _padding(dims, d, index, length - index - 1)))


def _padding(dims: int, d: int, before: int, after: int) -> list[int]:
    pad = [0] * (2 * (dims - d))
    pad[-2:] = [before, after]
    return pad


def _span(node: Any) -> tuple[int, int, Node] | None:
    """Of zeros around a tensor along one dimension: that dimension, where the tensor starts, and the tensor."""
    if not is_call(node, aten.constant_pad_nd.default) or (len(node.args) > 2 and node.args[2] != 0):
        return None
    pad, dims = node.args[1], value(node).dim()
    padded = [i for i in range(len(pad) // 2) if pad[2 * i] or pad[2 * i + 1]]
    if len(padded) != 1 or min(pad) < 0:
        return None
    return dims - 1 - padded[0], pad[2 * padded[0]], node.args[0]


def is_sum(node: Any) -> bool:
    """Whether a node is the sum of two."""
    return is_call(node, aten.add.Tensor) and not node.kwargs


def summands(node: Any, *, top: bool = True) -> list[Any]:
    """What a sum of sums adds up, as far as nothing else reads the sums within."""
    if not is_sum(node) or (not top and len(node.users) > 1):
        return [node]
    return [leaf for a in node.args[:2] for leaf in summands(a, top=False)]


def join_pads(graph: Graph) -> None:
    """A sum of disjoint pieces, each padded with zeros, is their concatenation."""
    for node in list(graph.nodes):
        if not is_call(node, aten.add.Tensor) or any(map(is_sum, node.users)):
            continue
        leaves = summands(node)
        spans = [_span(leaf) for leaf in leaves]
        if any(
            span is None or value(leaf).shape != value(node).shape for span, leaf in zip(spans, leaves, strict=True)
        ):
            continue
        found = sorted((span for span in spans if span is not None), key=lambda s: s[1])
        d = found[0][0]
        if any(span[0] != d for span in found):
            continue
        pieces: list[Node] = []
        end = 0
        for _, start, piece in found:
            if start < end:
                break
            if start > end:
                pieces.append(_zeros(node, piece, d, start - end))
            pieces.append(piece)
            end = start + value(piece).shape[d]
        else:
            if end < value(node).shape[d]:
                pieces.append(_zeros(node, pieces[-1], d, value(node).shape[d] - end))
            replace(node, insert(node, aten.cat.default, pieces, d))


def _zeros(before: Node, like: Node, d: int, size: int) -> Node:
    shape = [*value(like).shape]
    shape[d] = size
    return insert(before, aten.new_zeros.default, like, shape)
