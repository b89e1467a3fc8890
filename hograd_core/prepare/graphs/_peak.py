"""How many bytes a graph holds at once: counted from the graph, before it runs."""

from __future__ import annotations

from torch import Tensor
from torch.fx import GraphModule, Node

from hograd_core.prepare.graphs._nodes import output, tensors_of


def bytes_of(tensor: Tensor) -> int:
    """Bytes of the memory that a tensor takes when it is made."""
    return tensor.untyped_storage().nbytes()


def peak_bytes(module: GraphModule) -> int:
    """The most bytes that values of a graph take at once as it runs op by op, its result included.

    Inputs are the caller's. A view has no memory of its own and keeps that of what it is a view of; a value is let go
    after its last use. What an operation takes for itself and gives back is not counted.
    """
    holders: dict[Node, set[int]] = {}
    size: dict[int, int] = {}
    given: set[int] = set()
    for node in module.graph.nodes:
        memory = {v.untyped_storage()._cdata: bytes_of(v) for v in tensors_of(node)}
        holders[node] = set(memory)
        size.update(memory)
        if node.op in ("placeholder", "get_attr"):
            given |= holders[node]
    last: dict[int, Node] = {}
    for node in module.graph.nodes:
        for source in (node, *node.all_input_nodes):
            for storage in holders[source]:
                last[storage] = node
    for source in output(module.graph).all_input_nodes:
        for storage in holders[source]:
            last[storage] = output(module.graph)
    alive = peak = 0
    seen = set(given)
    for node in module.graph.nodes:
        alive += sum(size[s] for s in holders[node] - seen)
        seen |= holders[node]
        peak = max(peak, alive)
        freed = {s for source in (node, *node.all_input_nodes) for s in holders[source] if last[s] is node} - given
        alive -= sum(size[s] for s in freed)
    return peak
