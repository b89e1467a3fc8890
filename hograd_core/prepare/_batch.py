"""A graph of one direction as a graph of many, and many as the identity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from hograd_core.prepare._build import table
from hograd_core.prepare._graphs import aten, is_call, placeholders, propagate, replace
from hograd_core.prepare._passes import clean


def batched(module: GraphModule, inputs: Sequence[Tensor], place: int, rows: int) -> GraphModule:
    """The same function with ``rows`` values of one input along a new dimension 0, and so of its result.

    Operations are taken apart before they are vectorised: many backward formulas have no batching rule of their own,
    and vmap would run them one row at a time.

    Args:
        module: a clean graph.
        inputs: tensors such as it is called with.
        place: of the input that there are several of.
        rows: how many.
    """
    simpler = table("compiled", vectorised=True)
    simple = make_fx(module, decomposition_table=simpler)(*inputs)
    propagate(simple, inputs)
    clean(simple)
    several = [t.expand(rows, *t.shape).clone() if i == place else t for i, t in enumerate(inputs)]
    in_dims = tuple(0 if i == place else None for i in range(len(inputs)))
    many = make_fx(torch.func.vmap(simple, in_dims=in_dims), decomposition_table=simpler)(*several)
    propagate(many, several)
    return clean(many)


def identity_for(module: GraphModule, place: int) -> bool:
    """Put an identity in the place of an input of shape (n, ..., n elements), where that needs no identity at all.

    ``eye @ W`` is W. (Where W holds infinities, an eager product gives NaN there.)

    Returns:
        Whether the input is still needed.
    """
    graph = module.graph
    eye = placeholders(graph)[place]
    for node in list(graph.nodes):
        if is_call(node, aten.mm.default) and node.args[0] is eye:
            replace(node, node.args[1])
    clean(module)
    return bool(eye.users)
