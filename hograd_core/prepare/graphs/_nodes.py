"""What the passes over a graph share: kinds of nodes, what each holds (as a fake tensor), replacing and inserting."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


def propagate(module: GraphModule, inputs: Sequence[Tensor]) -> FakeTensorMode:
    """Note in ``meta["val"]`` what each node holds: a tensor without data that has shape, strides, dtype and device."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv  # it loads sympy, in a second

    # Inductor's cache on disk is passed over for graphs whose mode has no ShapeEnv.
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv(), static_shapes=True)
    given = iter(inputs)
    with mode, torch.no_grad():
        for node in module.graph.nodes:
            if node.op == "placeholder":
                node.meta["val"] = mode.from_tensor(next(given).detach(), static_shapes=True)
            elif node.op == "get_attr":
                node.meta["val"] = mode.from_tensor(getattr(module, str(node.target)).detach(), static_shapes=True)
            elif node.op == "call_function":
                node.meta["val"] = _evaluate(node)
    return mode


def _evaluate(node: Node) -> Any:
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _mode(graph: Graph) -> FakeTensorMode:
    """The mode of the fake tensors that its nodes hold."""
    mode: FakeTensorMode = value(placeholders(graph)[0]).fake_mode  # type: ignore[attr-defined]
    return mode


def refresh(graph: Graph) -> None:
    """Note anew what each node holds, so that those that share memory are known to: rules replace and insert nodes."""
    with _mode(graph), torch.no_grad():
        for node in graph.nodes:
            if is_call(node):
                node.meta["val"] = _evaluate(node)


def value(node: Any) -> Tensor:
    """What a node holds, as a fake tensor."""
    held: Tensor = node.meta["val"]
    return held


def tensors_of(node: Node) -> list[Tensor]:
    """The (fake) tensors that a node holds."""
    return [v for v in tree_leaves(node.meta.get("val")) if isinstance(v, Tensor)]


def is_call(node: Any, *targets: Any) -> bool:
    """Whether a node calls one of these operations, or any where none is named."""
    return isinstance(node, Node) and node.op == "call_function" and (not targets or node.target in targets)


def is_elementwise(node: Any) -> bool:
    """Whether a node computes each number of one tensor from numbers at the same place."""
    tagged = is_call(node) and torch.Tag.pointwise in getattr(node.target, "tags", ())
    return tagged and isinstance(value(node), Tensor)  # frexp gives two


def layout(tensor: Tensor) -> tuple[Any, ...]:
    """What of a tensor other operations can tell."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def by_memory(tensor: Tensor) -> list[int]:
    """The dimensions of a tensor in the order in which they lie in memory."""
    return sorted(range(tensor.dim()), key=tensor.stride, reverse=True)


def inverse(order: list[int]) -> list[int]:
    """The permutation that undoes another."""
    return sorted(range(len(order)), key=order.__getitem__)


def insert(before: Node, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
    """A new call before a node."""
    with before.graph.inserting_before(before):
        made = before.graph.call_function(target, args, kwargs)
    with _mode(before.graph), torch.no_grad():
        made.meta["val"] = _evaluate(made)
    return made


def insert_input(after: Node, name: str) -> Node:
    """A further input of a graph, after one: under a name that no step has, which as an argument it would hide."""
    with after.graph.inserting_after(after):
        made = after.graph.placeholder(name)
    made.target = made.name
    return made


def insert_constant(module: GraphModule, before: Node, tensor: Tensor) -> Node:
    """A tensor that a graph holds, before a node of it."""
    name = next(name for i in itertools.count() if not hasattr(module, name := f"constant_{i}"))
    module.register_buffer(name, tensor)
    with module.graph.inserting_before(before):
        made = module.graph.get_attr(name)
    made.meta["val"] = _mode(before.graph).from_tensor(tensor, static_shapes=True)
    return made


def replace(node: Node, by: Node) -> None:
    """Put one node in the place of another, which goes."""
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def placeholders(graph: Graph) -> list[Node]:
    """The inputs of a graph, in order."""
    return [node for node in graph.nodes if node.op == "placeholder"]


def output(graph: Graph) -> Node:
    """The node that returns."""
    found: Node = next(node for node in reversed(graph.nodes) if node.op == "output")
    return found


def result(graph: Graph) -> Node:
    """The one node whose value a graph returns."""
    (returned,) = output(graph).all_input_nodes
    found: Node = returned
    return found


def duplicate(module: GraphModule) -> GraphModule:
    """A copy, to be changed."""
    graph = Graph()
    known: dict[Node, Node] = {}
    returned = graph.graph_copy(module.graph, known)
    graph.output(returned)
    for old, new in known.items():
        new.meta = dict(old.meta)
    return GraphModule(module, graph)


def copied(nodes: Sequence[Node], into: Graph, known: dict[Node, Node]) -> None:
    """Copy nodes, in order, into another graph, with what they hold; ``known``: those that are there already."""
    for node in nodes:
        if node not in known:
            known[node] = into.node_copy(node, known.__getitem__)


def sort(graph: Graph) -> None:
    """Put nodes in an order in which each follows what it reads, and as near to the present one as can be."""
    nodes = list(graph.nodes)
    place = {node: i for i, node in enumerate(nodes)}
    waiting = {node: len(node.all_input_nodes) for node in nodes}
    ready = [place[node] for node in nodes if not waiting[node] and node.op != "output"]
    heapq.heapify(ready)
    last: Node | None = None
    while ready:
        node = nodes[heapq.heappop(ready)]
        if last is not None:
            last.append(node)
        last = node
        for user in node.users:
            waiting[user] -= 1
            if not waiting[user] and user.op != "output":
                heapq.heappush(ready, place[user])
    if last is not None:
        last.append(output(graph))
