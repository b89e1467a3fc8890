"""hograd's own methods, as contestants among the others."""

from __future__ import annotations

from collections.abc import Callable

import hograd_core
from hograd_bench.peers._contract import Build, Contest, Contestant, Peer, Task
from hograd_core import Method, Operator, curvature
from hograd_core.solvers import minimize_newton

PEER = Peer("hograd", distribution="hograd", module="hograd_core", home="this project")


def _build(operator: Operator, method: Method) -> Build:
    def build(task: Task) -> Contestant:
        known = {"f": task.f, "x": task.x, "v": task.v, **task.instance.extras}
        missing = [name for name in operator.inputs if name not in known]
        if missing:
            raise LookupError(f"problem: {task.contest.problem} provides no {missing[0]!r}")
        arguments = tuple(known[name] for name in operator.inputs)
        keywords = {"order": task.contest.order} if operator.takes_order else {}
        return Contestant(lambda: operator.unguarded(*arguments, method=method.name, **keywords), task.value)

    return build


def _supports(method: Method) -> Callable[[Contest], bool]:
    return lambda contest: method.supports(contest.order)


for _operator in hograd_core.operators().values():
    for _method in _operator.methods.values():
        if _method.exact:  # approximations compute something else; their error is no rounding
            for _name in (_operator.name, *_operator.aliases):
                PEER.offer(_name, _method.name, _supports(_method))(_build(_operator, _method))


def _minimize(globalisation: str) -> Build:
    def build(task: Task) -> Contestant:
        def call() -> object:
            return minimize_newton(task.f, task.x, globalisation=globalisation, gradient_tolerance=GRADIENT_TOLERANCE).x

        return Contestant(call, task.value, note=f"stops at |g| <= {GRADIENT_TOLERANCE:g}")

    return build


GRADIENT_TOLERANCE = 1e-5
for _kind in ("line_search", "trust_region"):
    PEER.offer("minimize", f"minimize_newton, {_kind}")(_minimize(_kind))


@PEER.offer("kfac", "kfac(...).matvec(v)")
def kfac(task: Task) -> Contestant:
    """The factors built from the batch and applied once."""
    module, loss, inputs, targets = (task.extra(name) for name in ("module", "loss", "inputs", "targets"))
    return Contestant(lambda: curvature.kfac(module, loss, inputs, targets).matvec(task.v), task.value)
