"""Counts of one warm call: dispatches, autograd nodes, evaluations of f, floating-point operations, bytes moved.

All are integers that depend on the code, the build of torch and the shapes; not on the clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hograd_bench.metrics._contract import Metric, Missing, Readings, Value

if TYPE_CHECKING:
    from torch import Tensor

    from hograd_bench.metrics._dispatch import Tally
    from hograd_bench.metrics._subject import Subject

TURN = 2
PYTORCH_ONLY = True
_DEPENDS = ("torch", "isa", "device")
_MODE = "TorchDispatchMode beneath functorch"
_WORK = ("flops", "flops_coverage", "moved_bytes", "arithmetic_intensity")
METRICS = (
    Metric(
        "aten_calls",
        "1",
        True,
        _MODE,
        "ATen operators dispatched to a kernel, views included",
        _DEPENDS,
        kind="count",
        label="ATen calls",
    ),
    Metric(
        "graph_nodes",
        "1",
        True,
        "autograd sequence numbers handed out, less the engine's own roots",
        "autograd nodes created, those of leaves (AccumulateGrad) aside",
        _DEPENDS,
        kind="count",
    ),
    Metric("f_calls", "1", True, "a counting wrapper", "evaluations of f as Python sees them", _DEPENDS, kind="count"),
    Metric("flops", "FLOP", True, _MODE, "floating-point operations by formula", _DEPENDS),
    Metric(
        "flops_coverage", "1", True, _MODE, "share of dispatches that a formula covers", _DEPENDS, direction="higher"
    ),
    Metric("moved_bytes", "B", True, _MODE, "bytes that operators read and wrote; views are free", _DEPENDS),
    Metric("arithmetic_intensity", "FLOP/B", True, _MODE, "flops / moved_bytes", _DEPENDS, direction=""),
)


def measure(subject: Subject) -> Readings:
    """Read every count of the subject's cell.

    Args:
        subject: the cell made callable.

    Returns:
        Values for every metric; details ``aten_by_op``, ``flops_by_op``, ``flops_uncovered`` (operator ->
        count), ``accumulators`` and ``zero_tensors``. Cost: the warm-up calls and one counted call.
    """
    from hograd_bench.metrics._calls import repeatable, warm

    call = warm(subject)
    takes_f = "f" in subject.operator.inputs and subject.peer is None
    evaluations = 0

    def counted_call() -> Any:
        nonlocal evaluations
        f: Callable[..., Tensor] = subject.arguments[subject.operator.inputs.index("f")]

        def counting(*given: Any) -> Tensor:
            nonlocal evaluations
            evaluations += 1
            return f(*given)

        return subject.call_with(counting)

    tally, nodes = counted(repeatable(counted_call) if takes_f else call)
    values: dict[str, Value] = {
        "aten_calls": tally.calls,
        "graph_nodes": nodes,
        "f_calls": evaluations
        if takes_f
        else Missing(f"{subject.method.name if subject.peer else subject.operator.name} takes no f"),
        **_work(tally, subject.undispatched),
    }
    details = {
        "aten_by_op": _ordered(tally.by_op),
        "flops_by_op": _ordered(tally.flops_by_op) if subject.undispatched is None else {},
        "flops_uncovered": _ordered(tally.uncovered),
        "accumulators": tally.accumulators,
        "zero_tensors": tally.zero_tensors,
    }
    return Readings(values, details)


def counted(call: Callable[[], Any]) -> tuple[Tally, int]:
    """Run ``call`` once; its dispatches, and the autograd nodes that it creates in this thread.

    Every node takes the next of the thread's sequence numbers when it is made, at every level of functorch, save
    the AccumulateGrad of a leaf. The root that the engine makes for itself when it starts from several tensors
    is no node of a graph and is subtracted.

    Args:
        call: takes nothing; its result is dropped.

    Returns:
        The tally and the number of nodes.
    """
    from torch._C._autograd import _get_sequence_nr

    from hograd_bench.metrics._dispatch import count
    from hograd_bench.metrics._phases import engine_log

    with engine_log() as log:
        before = _get_sequence_nr()
        tally = count(call)
        return tally, _get_sequence_nr() - before - log.helper_nodes


def _work(tally: Tally, undispatched: str | None) -> dict[str, Value]:
    if undispatched is not None:
        none: dict[str, Value] = dict.fromkeys(_WORK, Missing(undispatched))
        return none
    intensity: Value = Missing("no operator read or wrote a byte")
    if tally.moved_bytes:
        intensity = tally.flops / tally.moved_bytes
    return {
        "flops": tally.flops,
        "flops_coverage": tally.coverage,
        "moved_bytes": tally.moved_bytes,
        "arithmetic_intensity": intensity,
    }


def _ordered(counter: Counter[str]) -> dict[str, int]:
    """Largest first, names in order among equals: the same text in every process."""
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
