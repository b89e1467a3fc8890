"""A derivative as a graph of aten operations: traced, functionalised, its outside tensors made inputs."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from hograd_core.prepare.graphs._nodes import aten, insert_input, is_call
from hograd_core.prepare.graphs._record import record

_READS = {
    *(getattr(Tensor, name) for name in (
        "item", "tolist", "numpy", "is_nonzero", "equal", "allclose", "data_ptr", "untyped_storage", "__bool__",
        "__float__", "__int__", "__index__", "__complex__", "__array__", "__contains__", "__dlpack__",
    )),
    torch.equal, torch.allclose, torch.is_nonzero,
}  # fmt: skip
"""What gives Python a tensor's values: a trace would hold on to the branch or the number they led to."""


def _sum_of_diagonal(input: Tensor) -> Tensor:
    return input.diagonal().sum()


_INSTEAD: dict[Any, Callable[..., Tensor]] = dict.fromkeys((torch.trace, Tensor.trace), _sum_of_diagonal)
"""What PyTorch's own second derivative reads values for, though none is needed."""

_REASONS = {
    torch.Tag.data_dependent_output: "reads values of a tensor ({}), on which what it computes may depend",
    torch.Tag.dynamic_output_shape: "makes a shape out of values ({})",
    torch.Tag.nondeterministic_seeded: "draws random numbers ({})",
}


_ADDRESSING = (aten.as_strided.default, aten.as_strided_copy.default, aten.as_strided_scatter.default)


class _Tracing(threading.local):
    conditions: list[Tensor] | None = None
    apart: bool = False


_TRACING = _Tracing()


def tracing() -> bool:
    """Whether a function is being traced, so that what it does next is done by every call of a kernel."""
    return _TRACING.conditions is not None


@contextmanager
def apart() -> Iterator[None]:
    """What is computed inside is no part of a trace under way, and may read values; its results hold for all calls."""
    if not tracing():
        yield
        return
    before, _TRACING.apart = _TRACING.apart, True
    try:
        with _disable_current_modes():
            yield
    finally:
        _TRACING.apart = before


def assume(condition: Tensor) -> bool:
    """Whether a condition on values holds, (), bool; in a trace it is taken to hold, and each call of the kernel looks.

    A call for which it does not hold goes the eager way.
    """
    if _TRACING.conditions is None:
        return bool(condition)
    _TRACING.conditions.append(condition)
    return True


def _with_conditions(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """The same, with whether all that was assumed holds beside its result where something was."""

    def traced(*inputs: Tensor) -> Any:
        _TRACING.conditions = []
        try:
            with _Checks():  # type: ignore[no-untyped-call]
                result = function(*inputs)
            assumed = _TRACING.conditions
            return (result, functools.reduce(torch.logical_and, assumed)) if assumed else result
        finally:
            _TRACING.conditions = None

    return traced


class CannotPrepareError(Exception):
    """A function of which no graph holds for all calls; the message says why."""


class Traced(NamedTuple):
    """A graph and the tensors that f refers to, which are its last inputs.

    Attributes:
        graph: (*inputs, *lifted) -> one tensor, and where something was assumed (:func:`assume`) whether that holds;
            aten operations only, none of which writes.
        lifted: what f refers to outside, each once, by identity: an update in place is seen by the next call.
    """

    graph: GraphModule
    lifted: list[Tensor]


def _is_of_torch(frame: FrameType | None) -> bool:
    """Whether what calls a function is PyTorch's, which reads conditions to check what it is given: a scale's sign."""
    while frame is not None and frame.f_code.co_name == "__torch_function__":  # modes that pass it on
        frame = frame.f_back
    return frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "torch"


class _NoReads(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _READS and not _TRACING.apart and not (func is Tensor.__bool__ and _is_of_torch(sys._getframe(1))):
            raise CannotPrepareError(
                f"f reads values of a tensor (Tensor.{func.__name__}), as data-dependent code does"
            )
        return _INSTEAD.get(func, func)(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Notes whether f was given a tensor's values, by which it may have chosen what it computes.

    Attributes:
        seen: whether it was.
    """

    seen = False

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one call, and note what it is."""
        self.seen |= func in _READS
        return func(*args, **(kwargs or {}))


def _refuse(func: Any, args: Sequence[Any]) -> None:
    """Raise where an operation could do something else at another call."""
    if func is aten.index.Tensor and not any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]):
        return  # tagged for the sake of masks; numbers make a shape that theirs tells
    for tag, reason in _REASONS.items():
        if tag in getattr(func, "tags", ()):
            raise CannotPrepareError("f " + reason.format(func))


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Without what PyTorch puts around each such mode for those who compile it, which loads dynamo: a second."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _Checks(DispatchMode):  # type: ignore[no-untyped-call]
    """Takes conditions that PyTorch reads, wherever it does, to hold or not to as they do here (:func:`assume`)."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten.equal.default and args[0].shape == args[1].shape:
            condition = (args[0] == args[1]).all()
        elif func is aten._local_scalar_dense.default and args[0].dtype is torch.bool:
            condition = args[0]
        else:
            condition = None
        if condition is None or _TRACING.apart:
            return func(*args, **(kwargs or {}))
        with _disable_current_modes():
            holds = condition.item()
        assume(condition if holds else ~condition)
        return holds


class _Repeatable(DispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what another call could do otherwise, wherever in PyTorch it is called from."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        _refuse(func, args)
        return func(*args, **(kwargs or {}))


@contextmanager
def watched() -> Iterator[Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """What a trace refuses raises within; gives what makes a function say what it assumes, as a trace has it."""
    with _NoReads(), _Repeatable():  # type: ignore[no-untyped-call]
        yield _with_conditions


def _versions(tensors: Sequence[Tensor]) -> list[int | None]:
    return [None if t.is_inference() else t._version for t in tensors]


def trace(function: Callable[..., Tensor], inputs: Sequence[Tensor], table: dict[Any, Any]) -> Traced:
    """Trace a function of tensors.

    Args:
        function: (*inputs) -> one tensor; may close over others.
        inputs: tensors of the shapes, dtypes and devices that the graph is for. Clones are traced, so that an input
            that f also refers to outside is told apart.
        table: operation -> its decomposition.

    Raises:
        CannotPrepareError: no graph can stand for the function; the message says why.
        Exception: what the function itself raises.
    """
    fresh = [t.detach().clone() for t in inputs]
    try:
        with watched() as run:
            first = record(run(function), fresh, values=False)
    except RuntimeError as error:
        if "get value out of a tracing tensor" in str(error):
            raise CannotPrepareError("f reads values of a tensor, as data-dependent code does") from error
        raise
    _refuse_addresses(first.graph)
    outside = _outside(first)
    before = _versions(outside)
    function(*[t.clone() for t in fresh])
    if _versions(outside) != before:
        raise CannotPrepareError("f writes into a tensor that it refers to (running statistics, a counter, a cache)")
    # Inputs before writes are removed: what takes its memory from a tensor outside (zeros_like) may be written to.
    lifted = _lift(first)
    given = [*fresh, *(t.detach() for t in lifted)]
    # Before anything is shared or removed: until then an operation may write to what another one reads.
    with torch.no_grad(), _Repeatable():  # type: ignore[no-untyped-call]
        pure = record(torch.func.functionalize(first, remove="mutations"), given, table)
    return Traced(pure, lifted)


def _refuse_addresses(graph: Graph) -> None:
    """Raise where f counts from the start of memory that its argument may be anywhere in."""
    for node in graph.nodes:
        if not is_call(node, *_ADDRESSING) or not isinstance(node.args[-1], int):
            continue
        base = node
        while is_call(base) and (base is node or base.target.is_view):
            base = base.args[0]
        if base.op == "placeholder":
            raise CannotPrepareError(f"f uses a place in the memory of its argument ({node.target} with an offset)")


def _attributes(graph: GraphModule) -> list[Node]:
    return [node for node in graph.graph.nodes if node.op == "get_attr"]


def _is_fresh(node: Node) -> bool:
    """Whether a tensor is made anew in each call (``torch.tensor(2.0)``), so that it is a constant."""
    return all(user.target in (aten.lift_fresh_copy.default, aten.lift_fresh.default) for user in node.users)


def _outside(graph: GraphModule) -> list[Tensor]:
    return [getattr(graph, str(node.target)) for node in _attributes(graph) if not _is_fresh(node)]


def _lift(module: GraphModule) -> list[Tensor]:
    """Turn tensors from outside into further inputs; return them in the order of the inputs."""
    graph = module.graph
    inputs: dict[int, Node] = {}
    lifted: list[Tensor] = []
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node in _attributes(module):
        if _is_fresh(node):
            continue
        tensor = getattr(module, str(node.target))
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            raise CannotPrepareError(f"f refers to a {type(tensor).__name__}, a subclass of Tensor")
        if id(tensor) not in inputs:
            last = inputs[id(tensor)] = insert_input(last, f"outside_{len(lifted)}")
            lifted.append(tensor)
        node.replace_all_uses_with(inputs[id(tensor)])
        graph.erase_node(node)
    results = tree_leaves([node.args[0] for node in graph.nodes if node.op == "output"])
    if len(results) > 2 or not all(isinstance(result, Node) for result in results):
        raise CannotPrepareError("the result is not one tensor")
    module.recompile()
    return lifted
