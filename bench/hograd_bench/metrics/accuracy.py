"""Whether the result is right: its relative error to float64 truth, the same in units of rounding, its symmetry.

Truth is computed at exactly the rounded point that the method saw (``Subject.precise``), so the error
holds the method's rounding and truncation and nothing of the inputs'. In the maximum norm, leaf by leaf, relative
to the largest entry, or to the terms that sum up to the value where they cancel.
"""

from __future__ import annotations

import functools
import math
import statistics
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hograd_bench.metrics._asymmetry import asymmetry as asymmetry
from hograd_bench.metrics._contract import Metric, Missing, Readings
from hograd_bench.metrics._truths import TRUTHS_KEPT, are_finite, key_of, truths_of

if TYPE_CHECKING:
    from hograd_bench.metrics._subject import Subject
    from hograd_bench.problems import Instance
    from hograd_core.reference import Truth

TURN = 0
_DEPENDS = ("torch", "threads", "isa", "device")
_TRUTH = "hograd_core.reference in float64 on the CPU"
METRICS = (
    Metric(
        "relative_error", "1", True, _TRUTH, "largest deviation from truth over truth's scale", _DEPENDS,
        label="rel. error",
    ),
    Metric("ulp_error", "eps", True, _TRUTH, "relative_error in units of the dtype's machine epsilon", _DEPENDS),
    Metric(
        "asymmetry", "1", True, "the result against its transposes, in float64",
        "largest change of a full derivative tensor under exchange of two slots, over its largest entry", _DEPENDS,
    ),
    Metric(
        "tolerance", "1", True, "rule of hograd_core.reference", "relative error above which a result is wrong", (),
        direction="",
    ),
    Metric(
        "deviation", "1", True, _TRUTH, "largest deviation over the largest entry, however conditioned", _DEPENDS,
        overhead=False,
    ),
    Metric(
        "magnitude", "1", True, _TRUTH, "sum of absolute entries over the truth's: 0.5 is half too small", _DEPENDS,
        direction="", overhead=False,
    ),
    Metric(
        "disagreement", "1", True, "the results of the operator's other methods, in the dtype of the cell",
        "where truth is in doubt: median, over the other methods, of the largest deviation over the largest entry",
        _DEPENDS, overhead=False,
    ),
)  # fmt: skip

FUNCTION_EPS = 64
"""By how many eps of the dtype a peer's own value of the function may differ."""


@dataclass(frozen=True)
class Judgement:
    """What truth says of one result: an error, or why there is none."""

    allowed: float
    asymmetry: float | Missing
    error: float = math.inf
    unknown: str | None = None
    source: str = ""
    sampled: str = ""
    deviation: float = math.inf
    magnitude: float = math.nan


_judged: weakref.WeakKeyDictionary[Subject, Judgement] = weakref.WeakKeyDictionary()
_results: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()


def judge(subject: Subject) -> Judgement:
    """Compare the subject's result with truth; once per subject, whoever asks.

    Args:
        subject: the cell made callable.

    Returns:
        See :class:`Judgement`. Cost: one call and, for the first method of a problem, its truth (slow by design).
    """
    if subject not in _judged:
        _judged[subject] = _judge(subject)
    return _judged[subject]


def _judge(subject: Subject) -> Judgement:
    from hograd_bench.metrics._calls import repeatable
    from hograd_core import reference

    order = subject.operator.order if subject.operator.order is not None else subject.cell.order
    allowed = reference.tolerance(subject.method, subject.dtype, order)
    results = subject.tensors(repeatable(subject.call)())
    most = subject.instance.sweeps
    large = most is not None and reference.sweeps(subject.operator.name, subject.instance.x.numel(), order) > most
    if large and len(results) == 1:
        return _judge_samples(subject, results[0], order, allowed)
    skew = asymmetry(results, order) if subject.operator.result == "x * order" else Missing("no full derivative tensor")
    if not reference.has_truth(subject.operator.name):
        return Judgement(allowed, skew, unknown=f"{subject.operator.name} has no reference")
    try:
        truths = truths_of(subject)
    except reference.TruthError as doubt:
        return Judgement(allowed, skew, unknown=f"truth is in doubt: {doubt}")
    if not are_finite(truths):
        return Judgement(allowed, skew, unknown=f"truth is not finite: f or a derivative to order {order} is not, at x")
    error = _error(results, truths)
    if not error <= allowed:
        _refuse_if_it_changes(subject)
    values = [truth.value for truth in truths]
    return Judgement(
        allowed + max(truth.error for truth in truths),
        skew,
        error,
        source=next((truth.source for truth in truths if truth.source), ""),
        deviation=reference.relative_error(results, values),
        magnitude=reference.magnitude(results, values),
    )


def _error(results: list[Any], truths: list[Truth]) -> float:
    """The largest of the errors at every point."""
    from hograd_core import reference

    if len(results) != len(truths):
        return math.inf
    return max(reference.relative_error(r, t.value, t.scale) for r, t in zip(results, truths, strict=True))


def _judge_samples(subject: Subject, result: Any, order: int, allowed: float) -> Judgement:
    """The same where the whole truth would take too long."""
    from hograd_bench.metrics._calls import repeatable
    from hograd_core import reference

    skew = Missing("the result is large, and held against samples of its truth")
    f, x, *_ = subject.precise().each(subject.operator)[0]
    try:
        found = repeatable(lambda: reference.sampled(subject.operator.name, result, f, x, order=order))()
    except reference.TruthError as doubt:
        return Judgement(allowed, skew, unknown=f"truth is in doubt: {doubt}")
    if not found.finite:
        return Judgement(allowed, skew, unknown=f"truth is not finite: f or a derivative to order {order} is not, at x")
    if not found.error <= allowed:
        _refuse_if_it_changes(subject)
    return Judgement(allowed, skew, found.error, sampled=found.what, deviation=found.error)


def _refuse_if_it_changes(subject: Subject) -> None:
    """Raise where a problem is another function each time it is built: no method is at fault then.

    Raises:
        ProblemError: it is.
    """
    import torch

    from hograd_bench.problems import ProblemError

    again, exact = subject.problem.instance(subject.spec, subject.dtype, subject.cell.device), subject.precise()
    passed = again.x.detach().clone()
    again.f(passed)
    if not torch.equal(passed.nan_to_num(), again.x.detach().nan_to_num()):
        raise ProblemError(f"{subject.problem.name}: f changes x in place; write x + 1, say, and not x.add_(1)")
    x = subject.instance.x.detach().to("cpu", torch.float64)
    same = torch.equal(again.x, subject.instance.x) and x.shape == exact.x.shape and torch.equal(x, exact.x.detach())
    values = [torch.as_tensor(built.f(built.x.detach())).detach() for built in (subject.instance, again)]
    if not same or not torch.equal(values[0].nan_to_num(), values[1].nan_to_num()):
        what = "value of f" if same else "x"
        raise ProblemError(
            f"{subject.problem.name}: its {what} is another one at each build, so that nothing can be compared; "
            "draw all data from draw (draw.normal, draw.uniform, draw.module)"
        )


def _disagreement(subject: Subject) -> float | Missing:
    """How far the result is from those of the other methods that should give the same."""
    from hograd_bench.metrics._calls import repeatable
    from hograd_core import reference

    order = subject.cell.order
    results = _results.setdefault(key_of(subject, "results"), {})
    while len(_results) > TRUTHS_KEPT:
        _results.popitem(last=False)
    for method in subject.operator.methods.values():
        if method.exact and method.supports(order) and method.name not in results:
            try:
                results[method.name] = subject.tensors(repeatable(functools.partial(subject.by, method.name))())
            except Exception:  # that method's own row says why
                results[method.name] = None
    own = subject.tensors(repeatable(subject.call)())
    found = [
        reference.relative_error(own, other)
        for name, other in results.items()
        if name != subject.method.name and other is not None
    ]
    finite = sorted(error for error in found if math.isfinite(error))
    return statistics.median(finite) if finite else Missing("no other method gives a finite result")


def against(subject: Subject, results: list[Any], exact: Instance, where: str) -> str | None:
    """Why a result of the subject is not the truth at other arguments than its own.

    Args:
        subject: the cell made callable.
        results: what it gave there, at every point (``Subject.tensors``).
        exact: the problem in float64 on the CPU, at exactly the values that it saw.
        where: a name of them, by which the truth is remembered.

    Returns:
        A sentence, "" where the result is right; None where no truth is known (none at all, in doubt, not finite).
    """
    from hograd_core import reference

    if not reference.has_truth(subject.operator.name):
        return None
    order = subject.operator.order if subject.operator.order is not None else subject.cell.order
    try:
        truths = truths_of(subject, exact, where)
    except (reference.TruthError, RuntimeError):
        return None
    if not are_finite(truths):
        return None
    return _excess(_error(results, truths), reference.tolerance(subject.method, subject.dtype, order), subject) or ""


def measure(subject: Subject) -> Readings:
    """Read the accuracy of the subject's cell.

    Args:
        subject: the cell made callable.

    Returns:
        Values for every metric; missing with its reason where there is no truth, or no finite error.
    """
    import torch

    judgement = judge(subject)
    readings = Readings({"tolerance": judgement.allowed, "asymmetry": judgement.asymmetry})
    if judgement.source:
        readings.details["truth"] = f"{judgement.source}, for autograd has none; the tolerance holds their error"
    if judgement.sampled:
        readings.details["sampled"] = judgement.sampled
    known = judgement.unknown is None
    readings.values["disagreement"] = Missing("the truth is known") if known else _disagreement(subject)
    reason = judgement.unknown
    if reason is None and not math.isfinite(judgement.error):
        reason = "the result is not finite, or of another shape than truth"
    if reason is not None:
        names = ("relative_error", "ulp_error", "deviation", "magnitude")
        readings.values.update({name: Missing(reason) for name in names})
        return readings
    readings.values["relative_error"] = judgement.error
    readings.values["ulp_error"] = judgement.error / torch.finfo(subject.dtype).eps
    readings.values["deviation"] = judgement.deviation
    known = math.isfinite(judgement.magnitude)
    readings.values["magnitude"] = (
        judgement.magnitude
        if known
        else Missing("only samples of the truth are known" if judgement.sampled else "the truth is zero, or not finite")
    )
    return readings


def verdict(subject: Subject) -> str | None:
    """Why the subject's result may not be measured: it disagrees with truth, or there is none. None: it agrees."""
    import torch

    from hograd_bench.metrics.peer import function_error

    values = subject.function_values
    if values is not None and not function_error(*values) <= FUNCTION_EPS * torch.finfo(subject.dtype).eps:
        return f"its function is another one: value {values[0]:.9g}, not {values[1]:.9g}"
    judgement = judge(subject)
    if judgement.unknown is not None:
        return judgement.unknown
    excess = _excess(judgement.error, judgement.allowed, subject)
    return f"{excess}; truth is by {judgement.source}" if excess and judgement.source else excess


def _excess(error: float, allowed: float, subject: Subject) -> str | None:
    if error <= allowed:
        return None
    if not math.isfinite(error):
        return "the result is not finite, or of another shape than truth"
    return f"relative error {error:.3g} exceeds the tolerance {allowed:.3g} of {subject.cell.dtype}"
