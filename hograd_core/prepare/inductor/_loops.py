"""Loops of our own as operations of the library ``hograd``, which inductor learns when a graph first has one."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.fx import Node

from hograd_core.prepare.graphs._nodes import value

TYPES = {torch.float32: "float", torch.float64: "double"}
Plan = tuple[list[Any], list[int], Callable[[int], dict[str, Any]]]
"""Of a loop: its tensors, the sizes of its result, and (number of threads) -> what its source asks for."""
_LIBRARY: Any = torch.library.Library("hograd", "FRAGMENT")  # type: ignore[no-untyped-call]


def operation(signature: str, body: Callable[..., Any], source: str, *files: str) -> Any:
    """An operation that computes, eagerly, what a loop does; its name is of the loop's C++ and of what fills it in.

    Inductor's cache on disk knows a graph by the names of its operations: other code or choices have another name.
    """
    name, _, rest = signature.partition("(")
    made_from = b"".join([source.encode(), *(Path(file).read_bytes() for file in (__file__, *files))])
    name = f"{name}_{hashlib.sha256(made_from).hexdigest()[:12]}"
    _LIBRARY.define(f"{name}({rest}")
    _LIBRARY.impl(name, body, "CompositeExplicitAutograd")
    return getattr(torch.ops.hograd, name).default


def may_be_served(node: Node) -> bool:
    """Whether what a node holds is of a kind that loops have: on the CPU, single or double."""
    return value(node).dtype in TYPES and value(node).device.type == "cpu"


def teach(op: Any, source: str, plan: Callable[..., Plan], matrices: bool = False) -> None:
    """Have inductor compile an operation to a loop.

    Args:
        op: the operation.
        source: C++ that jinja fills in with ``kernel``, ``inputs`` and ``y`` for its head, ``start(i)`` (where input
            i begins, behind the head), ``apart(i)`` (from one of its matrices to the next), ``dtype`` and what the plan
            says.
        plan: (sizes, *operands of op) -> the plan; ``sizes(tensor)`` are a tensor's.
        matrices: of batches each matrix lies in one piece, and they lie anywhere, or are one; otherwise inputs lie in
            one piece.
    """
    from torch._inductor import ir
    from torch._inductor.codegen.cpp_template import CppTemplate
    from torch._inductor.lowering import register_lowering
    from torch._inductor.utils import parallel_num_threads

    @functools.cache  # jinja compiles a source in a hundredth of a second, and a kernel has up to a hundred loops
    def filled() -> Any:
        return CppTemplate._template_from_string(source)

    class Loop(CppTemplate):
        def __init__(self, tensors: list[Any], layout: Any, details: Callable[[int], dict[str, Any]]) -> None:
            super().__init__("hograd_loop", tensors, layout, 1)
            self.details = details

        def render(self, **given: Any) -> str:
            y: Any = given.get("template_buffer_node")
            y = self.output_node if y is None else y
            kernel, nodes = given["kernel"], self.input_nodes
            text: str = filled().render(
                kernel=kernel, y=y, dtype=TYPES[y.get_dtype()], inputs={f"T{i}": node for i, node in enumerate(nodes)},
                start=lambda i: f"{kernel.args.input(nodes[i].get_name())} + {nodes[i].get_layout().offset}",
                apart=lambda i: nodes[i].get_layout().stride[0], **self.details(parallel_num_threads()),
            )  # fmt: skip
            return text

    def laid(tensor: Any) -> Any:
        made = ir.ExternKernel.realize_input(tensor)
        layout, size = made.get_layout(), made.get_size()
        if matrices and len(size) == 3 and type(layout) is ir.FixedLayout and layout.stride[1:] == [size[2], 1]:
            return made
        return ir.ExternKernel.require_contiguous(made)

    def lower(*given: Any) -> Any:
        tensors, sizes, details = plan(lambda tensor: [int(size) for size in tensor.get_size()], *given)
        tensors = [laid(t) for t in tensors]
        layout = ir.FixedLayout(tensors[0].get_device(), tensors[0].get_dtype(), sizes)
        return Loop(tensors, layout, details).generate().output_node()  # type: ignore[no-untyped-call]

    register_lowering(op, type_promotion_kind=None)(lower)
