"""A graph in two: what depends on x alone, and what depends on the directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch.fx import Graph, GraphModule, Node

from hograd_core.prepare.graphs._nodes import aten, copied, is_call, placeholders, result, value

_FREE = (
    aten.view.default, aten.permute.default, aten.expand.default, aten.slice.Tensor, aten.select.int,
    aten.unsqueeze.default, aten.squeeze.dim, aten.as_strided.default, aten.full.default, aten.full_like.default,
)  # fmt: skip
"""What costs nothing to do again: such values are not kept, what they are made from is."""


class Split(NamedTuple):
    """Two graphs that one after the other compute what the whole did.

    Attributes:
        first: (*inputs but directions) -> tuple of residuals.
        second: (*directions, *inputs but directions, *residuals) -> the result.
    """

    first: GraphModule
    second: GraphModule


def split(module: GraphModule, directions: Sequence[int]) -> Split:
    """Split a cleaned graph at what its inputs at these places do not reach."""
    graph = module.graph
    inputs = placeholders(graph)
    moving = [inputs[i] for i in directions]
    fixed = [node for node in inputs if node not in moving]
    reached = set(moving)
    for node in graph.nodes:
        if any(source in reached for source in node.all_input_nodes):
            reached.add(node)
    kept: dict[Node, None] = {}
    again: set[Node] = set()

    def need(node: Node) -> None:
        """Have a value that the directions do not reach at hand in the second graph."""
        if node in again or node in kept or node.op in ("placeholder", "get_attr"):
            return
        if is_call(node, *_FREE):
            again.add(node)
            for source in node.all_input_nodes:
                need(source)
        else:
            kept[node] = None

    returned = result(graph)
    uses = [n.all_input_nodes for n in graph.nodes if n in reached and n.op == "call_function"]
    for source in [source for sources in (*uses, [returned]) for source in sources]:
        if source not in reached:
            need(source)
    first, second = Graph(), Graph()
    here: dict[Node, Node] = {}
    copied(fixed, first, here)
    copied([n for n in graph.nodes if n not in reached and n.op in ("call_function", "get_attr")], first, here)
    first.output(tuple(here[node] for node in kept))
    first.eliminate_dead_code()
    there: dict[Node, Node] = {}
    copied([*moving, *fixed], second, there)
    for i, node in enumerate(kept):
        there[node] = second.placeholder(f"residual_{i}")
        there[node].meta["val"] = value(node)
    copied(
        [n for n in graph.nodes if n.op == "get_attr" or (n.op == "call_function" and (n in reached or n in again))],
        second, there,
    )  # fmt: skip
    second.output(there[returned])
    for part in (first, second):
        part.lint()
    return Split(GraphModule(module, first), GraphModule(module, second))
