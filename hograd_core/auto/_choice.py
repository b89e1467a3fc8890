"""From rules and a cache to the methods to try, in order. A pure function of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hograd_core.auto._cache import Entry
from hograd_core.auto._rules import by_rule

_NEAR = 4.0
"""Times by which sizes of other functions may differ from that of f, to say something about it."""
_SPOKEN = 0.5
"""Share of the functions near f that a method must have been measured on."""
_CLEAR = 1.1
"""Times by which others' times must favour a method before the rule is left."""


@dataclass(frozen=True)
class Candidate:
    """A method to try, and why."""

    method: str
    why: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Choice:
    """What a call by ``"auto"`` does: it computes by the first candidate that PyTorch and the guard let pass.

    Attributes:
        operator, order: what is computed.
        candidates: in the order in which they are tried.
        source: where the order comes from: "rule", "this function", "others of its size" or "probe".
    """

    operator: str
    order: int | None
    candidates: tuple[Candidate, ...]
    source: str = "rule"

    @property
    def method(self) -> str:
        """The first one."""
        return self.candidates[0].method

    def __str__(self) -> str:
        """A line a candidate."""
        order = "" if self.order is None else f", order {self.order}"
        lines = [f"{self.operator}{order}: {self.method}, by {self.source}"]
        for place, each in enumerate(self.candidates):
            then = "tried first" if not place else "then"
            lines.append(f"  {then}: {each.method}: {each.why}")
        return "\n".join(lines)


def choose(
    operator: Any,
    order: int | None,
    *,
    function: Callable[[], str] | None = None,
    numel: int = 1,
    dtype: str = "float32",
    device: str = "cpu",
    threads: int = 1,
    known: Sequence[Entry] = (),
    memory: int | None = None,
    options: Collection[str] = (),
) -> Choice:
    """The methods to try.

    Args:
        operator: its record.
        order: derivative order; None: the operator's own.
        function: gives the identity of f, where there are entries to compare it with.
        numel: of x.
        dtype: likewise.
        device: likewise.
        threads: of torch.
        known: entries of the cache.
        memory: bytes that a method may take; those that are known to take more are left out.
        options: what the caller gives to the method, which must take it.
    """
    rules = by_rule(operator.name, operator.default, order, numel)
    candidates = [Candidate(rule.method, rule.why, rule.options) for rule in rules]
    of = order if order is not None else operator.order
    fitting = [
        e
        for e in known
        if (e.operator, e.order, e.device, e.dtype, e.threads) == (operator.name, of, device, dtype, threads)
        and e.method in operator.methods
        and operator.methods[e.method].exact
        and operator.methods[e.method].supports(of)
    ]
    source = "rule"
    if fitting and function is not None:
        mine = function()
        measured, source = _measured([e for e in fitting if e.function == mine and e.numel == numel]), "this function"
        if not measured:
            measured, source = _of_others(fitting, numel, candidates[0].method), "others of its size"
        if not measured:
            source = "rule"
        options_of = {c.method: c.options for c in candidates}
        first = [Candidate(method, why, options_of.get(method, {})) for method, why in measured]
        candidates = first + [c for c in candidates if c.method not in {m for m, _ in measured}]
    too_large = {
        e.method for e in fitting
        if memory is not None and e.peak_bytes is not None and e.numel <= numel and e.peak_bytes > memory
        and function is not None and e.function == function()
    }  # fmt: skip
    able = [
        c for c in candidates if c.method not in too_large and set(options) <= set(operator.methods[c.method].options)
    ]
    return Choice(operator.name, order, tuple(able or candidates[-1:]), source)


def _measured(mine: Sequence[Entry]) -> list[tuple[str, str]]:
    """Methods by the best time on f itself."""
    best: dict[str, float] = {}
    for entry in mine:
        best[entry.method] = min(entry.seconds, best.get(entry.method, math.inf))
    ordered = sorted(best.items(), key=lambda item: (item[1], item[0]))
    return [(method, f"{seconds:.3g} s on this function") for method, seconds in ordered]


def _of_others(entries: Sequence[Entry], numel: int, ruled: str) -> list[tuple[str, str]]:
    """The method that is fastest on other functions of about this size, where that is clear."""
    groups: dict[tuple[str, int], dict[str, float]] = {}
    for e in entries:
        if abs(math.log(e.numel / numel)) <= math.log(_NEAR):
            times = groups.setdefault((e.function, e.numel), {})
            times[e.method] = min(e.seconds, times.get(e.method, math.inf))
    slower: dict[str, list[float]] = {}
    for times in groups.values():
        best = min(times.values())
        for method, seconds in times.items():
            slower.setdefault(method, []).append(math.log(seconds / best))
    means = {m: sum(v) / len(v) for m, v in slower.items() if len(v) >= _SPOKEN * len(groups)}
    if not means:
        return []
    best_method = min(means, key=lambda m: (means[m], m))
    if ruled in means and means[ruled] - means[best_method] <= math.log(_CLEAR):
        best_method = ruled
    factor = math.exp(means[best_method])
    return [(best_method, f"{factor:.3g} times the fastest, over {len(groups)} functions of about this size")]
