"""Compile a graph by inductor, check what a kernel is given, and call it without what inductor's wrapper does anew."""

from __future__ import annotations

import functools
import gc
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hograd_core.prepare.graphs._nodes import (
    aten,
    duplicate,
    insert,
    insert_input,
    is_call,
    layout,
    output,
    placeholders,
    propagate,
    value,
)
from hograd_core.prepare.graphs._record import changed, record
from hograd_core.prepare.inductor._compilers import several_compilers
from hograd_core.prepare.inductor._convolutions import use_convolutions
from hograd_core.prepare.inductor._kept import Entry
from hograd_core.prepare.inductor._products import use_products
from hograd_core.prepare.inductor._sooner import few_headers, few_tables, plain_vectors, quick_strides
from hograd_core.prepare.inductor._stack import values_on_the_stack

Run = Callable[[list[Tensor]], Sequence[Tensor]]
_OF_LIBRARIES = (
    aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.convolution.default,
    aten.convolution_backward.default,
)  # fmt: skip
"""Beside what these take, memory costs nothing; their results do not lie on the stack."""
_WORTH_A_THREAD = 2**12
"""Elements a thread from which a loop is shared out: to wake threads and to wait for them takes microseconds, in which
one computes some thousand. Inductor's own, of 512, made small kernels slower on two threads than on one."""
LEFT_OUT: list[str] = []
"""What kernels were compiled without, since it failed, and why; whoever made them takes it from here (in `alone`)."""
_LOCK = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """One thread at a time, without warnings, and without collecting garbage: what makes a kernel.

    Filters of warnings are the process's. PyTorch's tracer and compiler warn of what they themselves use; f warned when
    it was called eagerly before. While their modules are loaded, a fifth of the time would go into looking for garbage.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collecting:
                gc.enable()


def told(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]


@functools.cache
def decompositions() -> Mapping[Any, Any]:
    """Inductor's table of operations as sums of simpler ones."""
    with alone():
        from torch._inductor.decomposition import select_decomp_table

        return dict(select_decomp_table())


@functools.cache
def unavailable(device: str) -> str | None:
    """Why nothing can be compiled for a kind of device; None: it can."""
    with alone():
        try:
            from torch._inductor.compile_fx import compile_fx_inner, get_cpp_wrapper_config  # noqa: F401
            from torch._inductor.cpp_builder import get_cpp_compiler
            from torch.utils._triton import has_triton
        except ImportError as error:
            return f"this torch ({torch.__version__}) has another inductor: {error}"
        if device != "cpu":
            return None if has_triton() else "inductor needs Triton for a GPU; pip install triton"
        try:
            get_cpp_compiler()
        except RuntimeError as error:
            return f"no C++ compiler for inductor ({str(error).strip().splitlines()[0]}); install g++, or set CXX"
    return None


def compiled(module: GraphModule, inputs: Sequence[Tensor], device: str) -> Run:
    """Compile a graph of aten operations for inputs such as these.

    Args:
        module: (*inputs) -> one tensor, or a tuple of different ones; changed.
        inputs: the tensors, for their shapes, strides, dtypes and devices.
        device: "cpu" (through inductor's C++ wrapper, without which a call costs 20 us more) or "cuda".

    Returns:
        (list of tensors) -> a sequence of tensors. Thread-safe: buffers belong to the call.
    """
    constants = _constants_as_inputs(module)
    inputs = [*inputs, *constants]
    module = _taken_apart(module, inputs)
    propagate(module, inputs)
    _write_to_whole(module)
    if device == "cpu":
        use_convolutions(module)
        use_products(module)
    returned = output(module.graph)
    returned.args = (tuple(returned.all_input_nodes),)
    module.recompile()
    run: Run = _compiled(module, device).current_callable
    entry = _only_of(run, "f")
    run = run if entry is None or None in _handles() else without_checks(entry)
    return (lambda given: run([*given, *constants])) if constants else run


def _taken_apart(module: GraphModule, inputs: Sequence[Tensor]) -> GraphModule:
    """A graph without operations that inductor knows as sums of simpler ones alone."""
    from torch._inductor.lowering import lowerings

    for node in module.graph.nodes:  # mostly all that there is
        if is_call(node, aten._to_copy.default) and list(node.kwargs) == ["dtype"]:
            node.target, node.args = torch.ops.prims.convert_element_type.default, (*node.args, node.kwargs["dtype"])
            node.kwargs = {}
    simpler = {op: parts for op, parts in decompositions().items() if op not in lowerings}
    if not any(is_call(node, *simpler) for node in module.graph.nodes):
        return module
    module.recompile()  # its constants became inputs
    with torch.no_grad():
        return record(module, inputs, simpler, values=False)


def _write_to_whole(module: GraphModule) -> None:
    """Give what is written to memory for each of its elements.

    Inductor makes writes of operations such as ``index_put``, and takes for their result memory in the strides of what
    they change: where that is expanded, as zeros are under vmap, rows overwrite each other.
    """
    for node in list(module.graph.nodes):
        written = node.args[0] if is_call(node) and _writes(node.target) else None
        if isinstance(written, Node) and any(n > 1 and not s for n, s in zip(*layout(value(written))[:2], strict=True)):
            whole = insert(node, aten.clone.default, written, memory_format=torch.contiguous_format)
            node.replace_input_with(written, whole)


def _writes(operation: Any) -> bool:
    """Whether an operation gives its first argument with other values in some places."""
    name = getattr(getattr(operation, "overloadpacket", None), "__name__", "")
    in_place = hasattr(aten, f"{name}_") and name.startswith(("index_", "scatter", "put"))
    return in_place or "index_put" in name or name.endswith("_scatter")


def _compiled(module: GraphModule, device: str) -> Any:
    """Inductor's code for a graph whose values are known: on the CPU as quickly made and run as can be, or without
    what fails of that.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor import config, graph, lowering
    from torch._inductor.compile_fx import compile_fx_inner, get_cpp_wrapper_config

    wrapper = device == "cpu"
    # A template of ours takes no epilogues: fused into it they would be lost.
    settings = {"epilogue_fusion": False, **(get_cpp_wrapper_config() if wrapper else {})}
    # Its channels last are not what oneDNN makes of a convolution in groups: such code fails when it runs.
    settings["layout_optimization"] = not wrapper
    settings["cpp.min_chunk_size"] = _WORTH_A_THREAD
    small = wrapper and not any(is_call(node, *_OF_LIBRARIES) for node in module.graph.nodes)
    able = {
        "values on the stack": values_on_the_stack, "few headers": few_headers, "quick strides": quick_strides,
        "few tables": few_tables, "several compilers": several_compilers,
    }  # fmt: skip
    every = [name for name in able if wrapper and (small or name != "values on the stack")]
    # Of operations that it calls and could take apart, inductor makes errors where an environment has CI set.
    call = functools.partial(lowering.make_fallback, warn=False)
    failed: list[str] = []
    for names in [every, *([name] for name in every if len(every) > 1), []]:
        own = duplicate(module)
        fakes: list[Any] = [value(node) for node in placeholders(own.graph)]
        try:
            with (
                alone(), config.patch(settings), plain_vectors(), changed(graph, "make_fallback", call),
                ExitStack() as stack, tracing(TracingContext(fakes[0].fake_mode)), torch.no_grad(),
            ):  # fmt: skip
                for name in names:
                    stack.enter_context(able[name]())
                made = compile_fx_inner(own, fakes, cpp_wrapper=wrapper)
        except Exception as error:
            if not names:
                raise
            failed.append(told(error))
        else:
            LEFT_OUT.extend(f"{name}: {failed[0]}" for name in every if name not in names)
            return made
    raise AssertionError("unreachable")


def _constants_as_inputs(module: GraphModule) -> list[Tensor]:
    """Make tensors that a graph holds its last inputs: calls past the checks of inductor's wrapper would lack them.

    Numbers become part of the code, as operations: a tensor of one is to inductor a number, without a shape to view.
    """
    graph = module.graph
    constants: list[Tensor] = []
    last = placeholders(graph)[-1]
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        tensor = getattr(module, str(node.target))
        if tensor.dim() == 0:
            with graph.inserting_before(node):
                of = {"dtype": tensor.dtype, "device": tensor.device}
                made = graph.call_function(aten.full.default, ([], tensor.item()), of)
        else:
            made = last = insert_input(last, f"constant_{len(constants)}")
            constants.append(tensor)
        node.replace_all_uses_with(made)
        graph.erase_node(node)
    return constants


def _handles() -> tuple[Any, Any]:
    """[tensors] -> handles, and handles -> [tensors]."""
    made = getattr(torch._C, "_aoti", None)
    names = "unsafe_alloc_void_ptrs_from_tensors", "alloc_tensors_by_stealing_from_void_ptrs"
    return getattr(made, names[0], None), getattr(made, names[1], None)


def _only_of(run: Run, *names: str) -> Any:
    """The first of the variables around a function; None: they are others."""
    own = inspect.getclosurevars(run).nonlocals if inspect.isfunction(run) else {}
    return own[names[0]] if set(own) == set(names) else None


def without_checks(entry: Entry) -> Run:
    """A callable without what inductor's does at each call for arguments that are no tensors; ours are guarded."""
    make, take = _handles()
    return lambda given: take(entry(make(given)))


def entry_of(run: Run) -> Entry | None:
    """What :func:`without_checks` was given; None: a run is something else, as with constants of its own."""
    entry: Entry | None = _only_of(run, "entry", "make", "take")
    return entry


def tensor_guard(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """A quick check that tensors are of the same kinds as these, under the same modes: in C++ where torch has it."""
    try:
        from torch._C._dynamo.guards import TensorGuards

        check: Callable[..., bool] = TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
    except (ImportError, TypeError):
        kinds = [_kind(t) for t in tensors]

        def check(*given: Tensor) -> bool:
            return len(given) == len(kinds) and [_kind(t) for t in given] == kinds

    return check


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    modes = (
        torch.is_inference_mode_enabled(), torch.is_autocast_enabled(tensor.device.type),
        torch._C._functorch.peek_interpreter_stack() is None,
    )  # fmt: skip
    return (
        type(tensor), tensor.shape, tensor.stride(), tensor.dtype, tensor.device,
        tensor.is_inference(), tensor.requires_grad and torch.is_grad_enabled(), modes,
    )  # fmt: skip
