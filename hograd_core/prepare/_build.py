"""From a function of tensors to something that runs quickly: trace, clean, compile, hold against the eager method."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from hograd_core.prepare._table import table
from hograd_core.prepare.graphs._lean import lean
from hograd_core.prepare.graphs._merge import merge_products
from hograd_core.prepare.graphs._nodes import duplicate, output, placeholders, refresh
from hograd_core.prepare.graphs._passes import clean, own_result
from hograd_core.prepare.graphs._peak import peak_bytes
from hograd_core.prepare.graphs._trace import CannotPrepareError, Traced, trace
from hograd_core.prepare.graphs._unread import drop_unread
from hograd_core.prepare.inductor import _compile, _kept, _key, _known
from hograd_core.prepare.inductor._key import Named

PREPARATIONS = ("eager", "graph", "compiled", "cudagraph")
Run = Callable[[list[Tensor]], Tensor]
Outputs = Callable[[list[Tensor]], Sequence[Tensor]]
Holds = Callable[[list[Tensor]], bool]

NOT_NEAR = "what a trace assumes of values does not hold near x, where it is compared with the eager method"
_HEAVY = 2**16
"""Elements of a matrix from which reading it costs more than the calls that put rows together."""


@dataclass
class Kernel:
    """Something that runs, and what it was made from.

    Attributes:
        run: [*inputs, *lifted] -> the result; None: only the eager method does.
        compared: the same where ``run`` may go the eager way, which it refuses: what is held against the eager method.
        lifted: tensors that f refers to, its last inputs.
        preparation: how it runs.
        reasons: why not as it was asked for.
        operations: of the graph that runs, by name, as far as there is one.
        peak: the most bytes that it holds at once, its result included, as far as its graph tells.
        trace: inputs -> the clean graph that it was made from, of which bound products are made; None: there is none.
        named: what it computes, by which later processes find it; None: it has no name, or none is looked for.
        found: whether an earlier process made it.
        first: of bound products for any number of directions: what depends on x alone; made with the first of them.
        without: what it was compiled without, since that failed, and why.
    """

    run: Run | None = None
    compared: Run | None = field(default=None, init=False)
    lifted: list[Tensor] = field(default_factory=list)
    preparation: str = "eager"
    reasons: list[str] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)
    trace: Callable[[Sequence[Tensor]], Traced] | None = None
    peak: int = 0
    named: Named | None = None
    found: bool = False
    first: Outputs | None = None
    without: list[str] = field(default_factory=list)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run it on inputs, itself."""
        run = self.compared or self.run
        assert run is not None
        with torch.no_grad():
            return run([*inputs, *self.lifted])

    def try_first(self, attempt: Callable[[list[Tensor]], Tensor | None], otherwise: Callable[..., Tensor]) -> None:
        """Have it run as an attempt does; where that gives None, go the way of ``otherwise``, of the inputs."""

        def run(given: list[Tensor]) -> Tensor:
            result = attempt(given)
            return otherwise(*given[: len(given) - len(self.lifted)]) if result is None else result

        def compared(given: list[Tensor]) -> Tensor:
            result = attempt(given)
            if result is None:
                raise CannotPrepareError(NOT_NEAR)
            return result

        self.run, self.compared = run, compared


def ladder(preparation: str, device: str) -> tuple[str, ...]:
    """What is tried, in order, before the eager method."""
    if preparation == "auto":
        preparation = "compiled" if device == "cpu" else "cudagraph"
    return {"compiled": ("compiled", "graph"), "cudagraph": ("cudagraph", "graph"), "graph": ("graph",)}[preparation]


def counted(module: GraphModule) -> Counter[str]:
    """Operations that a graph dispatches, by name."""
    return Counter(str(node.target) for node in module.graph.nodes if node.op == "call_function")


def finished(module: GraphModule, preparation: str) -> GraphModule:
    """The last passes over a clean graph: merge, clean what that left, return memory of its own, save memory."""
    by_calls = preparation == "graph"
    clean(merge_products(drop_unread(module), least=_HEAVY if by_calls else 0, columns=not by_calls))
    refresh(module.graph)
    own_result(module.graph)
    module.recompile()
    return lean(module) if by_calls else module


def ready(module: GraphModule, inputs: Sequence[Tensor], preparation: str) -> Outputs:
    """Something that runs a finished graph: [*inputs] -> a sequence of its results."""
    device = inputs[0].device.type
    if preparation == "graph":
        forward, single = module.forward, not isinstance(output(module.graph).args[0], tuple | list)
        return (lambda given: (forward(*given),)) if single else (lambda given: forward(*given))
    if preparation == "cudagraph" and device != "cuda":
        raise CannotPrepareError(f"CUDA graphs are of GPUs, and x is on the {device}")
    why = _compile.unavailable(device)
    if preparation == "compiled" and why is not None:
        raise CannotPrepareError(why)
    run = ready(module, inputs, "graph") if why is not None else _compile.compiled(module, inputs, device)
    return run if preparation == "compiled" else CudaGraph(run, inputs)


class CudaGraph:
    """A function of tensors recorded once as a CUDA graph and replayed: one launch for all kernels.

    Inputs are copied to where they were when it was recorded, the result is copied away: calls take turns.
    """

    def __init__(self, run: Outputs, inputs: Sequence[Tensor]) -> None:
        self._inputs = [t.detach().clone() for t in inputs]
        self._lock = threading.Lock()
        stream: Any = torch.cuda.Stream(self._inputs[0].device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose kernels and take workspaces at their first calls
                run(list(self._inputs))
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self._results = run(list(self._inputs))

    def __call__(self, given: list[Tensor]) -> list[Tensor]:
        """Replay with other values."""
        with self._lock:
            torch._foreach_copy_(self._inputs, given)
            self._graph.replay()
            return [result.clone() for result in self._results]


def build(
    make: Callable[[str], Kernel],
    preparations: Sequence[str],
    agrees: Callable[[Callable[..., Tensor]], str | None],
) -> Kernel:
    """The first of several preparations that can be made and computes what the eager method computes.

    Args:
        make: makes the kernel of a preparation.
        preparations: see :func:`ladder`.
        agrees: why a candidate (*inputs) -> tensor is not the function; None: it is.
    """
    reasons: list[str] = []
    for candidate in preparations:
        kernel, why = _tried(make, candidate, agrees)
        if why is not None and kernel is not None and kernel.named is not None and kernel.found:
            _kept.forget(kernel.named.name)  # made anew, whatever it was that lay on the disk
            kernel, why = _tried(make, candidate, agrees)
        if kernel is not None and why is None:
            kernel.reasons = reasons
            return kernel
        reasons.append(f"{candidate}: {why}")
    return Kernel(reasons=reasons)


def _tried(
    make: Callable[[str], Kernel], candidate: str, agrees: Callable[[Callable[..., Tensor]], str | None]
) -> tuple[Kernel | None, str | None]:
    """A kernel as far as it could be made, and why it is not to be used; None: it is."""
    kernel = None
    try:
        with _compile.alone():
            _compile.LEFT_OUT.clear()
            kernel = make(candidate)
            kernel.without = list(_compile.LEFT_OUT)
            return kernel, agrees(kernel)
    except CannotPrepareError as error:
        return kernel, str(error)
    except Exception as error:  # whatever PyTorch's tracer or compiler fails on, the eager method is there
        return kernel, _compile.told(error)


def clean_trace(function: Callable[..., Tensor], inputs: Sequence[Tensor], preparation: str) -> Traced:
    """A function as a clean graph."""
    traced = trace(function, inputs, table(preparation))
    clean(traced.graph)
    return traced


def unconditional(traced: Traced) -> tuple[GraphModule, Holds | None]:
    """The graph of a product, of which its halves or a whole Hessian can be made.

    Returns:
        (x, v, *args, *lifted) -> the product; [x, *args, *lifted] -> whether what it assumes of values holds, None: it
        assumes nothing.

    Raises:
        CannotPrepareError: it assumes something of directions.
    """
    if not isinstance(output(traced.graph.graph).args[0], tuple | list):
        return traced.graph, None
    product, assumed = (_returning(traced.graph, place) for place in (0, 1))
    if placeholders(assumed.graph)[1].users:
        raise CannotPrepareError("it assumes something of the values of directions")

    def holds(given: list[Tensor]) -> bool:
        x, *rest = given
        with torch.no_grad():  # parameters of f may require gradients
            return bool(assumed(x, x, *rest))

    return product, holds


def _returning(module: GraphModule, place: int) -> GraphModule:
    """A graph that returns one result of another."""
    module = duplicate(module)
    returned = output(module.graph)
    returned.args = (returned.args[0][place],)  # type: ignore[index]
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def plain(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    otherwise: Callable[..., Tensor],
    preparation: str,
) -> Kernel:
    """A function (*inputs) -> tensor as it is; ``otherwise`` is called where what the trace assumed does not hold."""
    named = name_of(function, inputs, preparation)
    found = _known.find(named)
    if found is not None:
        (run,), told = found.runs, found.told
        again = traced_again(function, found.lifted)
        kernel = Kernel(
            None, found.lifted, preparation, [], Counter(told["operations"]), again, told["peak"], named, True
        )  # fmt: skip
        conditional = told["conditional"]
    else:
        traced = clean_trace(function, inputs, preparation)
        module = finished(duplicate(traced.graph), preparation)
        operations, peak = counted(module), peak_bytes(module)
        kernel = Kernel(None, traced.lifted, preparation, [], operations, lambda _: traced, peak, named)
        conditional = len(output(module.graph).all_input_nodes) > 1
        run = ready(module, [*inputs, *traced.lifted], preparation)
        _known.keep(named, [run], kernel.lifted, operations=operations, peak=peak, conditional=conditional)
    kernel.run = lambda given: run(given)[0]
    if conditional:

        def attempt(given: list[Tensor]) -> Tensor | None:
            result, holds = run(given)
            return result if holds else None

        kernel.try_first(attempt, otherwise)
    return kernel


def name_of(function: Callable[..., Tensor], inputs: Sequence[Tensor], preparation: str) -> Named | None:
    """What a function computes, by name, where its compiled kernels are kept."""
    return _key.named(function, inputs) if preparation == "compiled" and inputs[0].device.type == "cpu" else None


def traced_again(function: Callable[..., Tensor], lifted: list[Tensor]) -> Callable[[Sequence[Tensor]], Traced]:
    """The graph of a kernel that was found without one: traced when something else is to be made of it."""
    known: list[Traced] = []

    def traced(inputs: Sequence[Tensor]) -> Traced:
        if not known:
            made = clean_trace(function, inputs, "compiled")
            if list(map(id, made.lifted)) != list(map(id, lifted)):
                raise CannotPrepareError("f refers to other tensors than when it was prepared")
            known.append(made)
        return known[0]

    return traced
