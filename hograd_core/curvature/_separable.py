"""Where f treats samples one by one: values by which it is a sum over samples, and weights that enter them linearly.

From the product with a weight on samples are followed through all that comes after it (:mod:`._samples`); what takes
several of them together, other than by a sum at the end, breaks what comes before. A *cut* is a value, a row a sample,
through which derivatives go on to the next cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hograd_core.curvature._samples import (
    AFFINE,
    ELEMENTWISE,
    MIXED,
    Facts,
    Link,
    Site,
    Taken,
    a_row_each,
    follow,
    is_pointwise,
    links,
    on_tensors,
    row_labels,
)
from hograd_core.curvature._tape import Step, Tape, Value, aside
from hograd_core.sparse._sets import numbers

_COPIES = frozenset(["clone", "_to_copy", "_unsafe_view", "unsafe_split", "unsafe_split_with_sizes", "lift_fresh_copy"])


class Plan:
    """What a run of f tells of how to compute its Hessian's diagonal.

    Args:
        tape: the run.
        root: the result of f.

    Attributes:
        cuts: those where x enters, and all that come after them, in the order of the run.
        known: the elements of x that enter one cut, linearly, and nothing else, or nothing at all; bool, (n,).
    """

    def __init__(self, tape: Tape, root: Value) -> None:
        self.root = root
        self._facts: dict[Value, Facts] = {}
        self._breaks: set[int] = set()
        with aside():
            self._through(tape)

    def of(self, value: Value) -> Facts:
        """What is known of a value."""
        found = self._facts.get(value)
        if found is None:
            found = self._facts[value] = Facts(broken=not value.known)
        return found

    def next(self, cut: Value) -> tuple[Value, Link]:
        """The cut after one, or the result, and how it depends on that one."""
        after = self.of(cut).after[0]
        before = self.of(after).back if after is self.root else self.of(after).link
        assert before is not None
        around = any(cut in self.of(other).up for other in before if other is not cut)
        return after, Link(MIXED, True) if around or cut not in before else before[cut]

    def _through(self, tape: Tape) -> None:
        point = tape.first.tensor
        n = point.numel()
        self.of(tape.first).places = numbers(n).reshape(point.shape)
        for step in reversed(tape.steps):
            step.live = any(self._is_live(v) for v in step.given)
        live = [step for step in tape.steps if step.live]
        uses = torch.zeros(n, dtype=torch.int64, device="cpu")
        for step in live:
            if step.by is None or not self._follow_parameters(step):
                self._follow(step)
                for places in [self.of(v).places for _, v in step.taken]:
                    if places is not None:
                        uses += torch.bincount(places.reshape(-1), minlength=n)
        root = self.of(self.root)
        root.right = root.summed or root.labels is not None
        for step in reversed(live):
            for value in step.given:
                if value is not self.root and self._is_live(value) and self.of(value).of_samples:
                    self._look_ahead(value)
        self.known = uses == 0
        needed: set[Value] = set()
        for cut, facts in self._facts.items():
            facts.sites = [s for s in facts.sites if facts.right and bool((uses[s.places] == 1).any())]
            if facts.sites:
                needed.update((cut, *(v for v in facts.after if v is not self.root)))
            for site in facts.sites:
                self.known[site.places] |= uses[site.places] == 1
        self.cuts = sorted(needed, key=lambda v: v.index)

    def _is_live(self, value: Value) -> bool:
        return value is self.root or any(step.live for step in value.users)

    def _follow_parameters(self, step: Step) -> bool:
        """Follow elements of x that an operation views or copies, and nothing else; whether it is such a one."""
        func, (_, first) = step.call.func, step.taken[0]
        places = self.of(first).places
        views = (func.is_view or step.name in _COPIES) and step.name != "as_strided"
        if places is None or len(step.taken) > 1 or not views or func._schema.is_mutable:
            return False
        for value, found in zip(step.given, on_tensors(step, lambda _: places), strict=True):
            self.of(value).places = found
        return True

    def _follow(self, step: Step) -> None:
        if step.by is None:
            return
        taken = [(t, self.of(v)) for t, v in step.taken if self.of(v).of_samples]
        product = step.name in ("mm", "addmm", "convolution")
        if product or not is_pointwise(step):
            for _, value in step.taken:
                self._end_of_elementwise(value)
        if product:
            self._product(step, taken)
        elif taken:
            follow(step, taken, [self.of(v) for v in step.given])
        if step.name in ("add", "mul") and not step.call.func._schema.is_mutable:
            self._scaled_or_shifted(step)

    def _end_of_elementwise(self, value: Value) -> None:
        """Make a cut of an elementwise function of a cut that is now taken otherwise."""
        facts = self.of(value)
        elementwise = any(link.kind == ELEMENTWISE for link in facts.back.values())
        if facts.link is None and elementwise and a_row_each(facts.labels):
            self._cut(facts, value, facts.back)

    def _cut(self, facts: Facts, value: Value, before: dict[Value, Link]) -> None:
        facts.link, facts.back = before, {value: Link(ELEMENTWISE, False)}
        facts.up = frozenset(before).union(*(self.of(cut).up for cut in before))

    def _product(self, step: Step, taken: Taken) -> None:
        """A product with a matrix, or a convolution: its rows are samples, whatever they were before."""
        call, (value, *_) = step.call, step.given
        facts, out = self.of(value), value.tensor
        left: Tensor = call.argument("input", "mat1", "self")
        if any(t is not left for t, _ in taken) or value.edge is None:  # a weight made of samples, say
            facts.broken = bool(taken)
            return
        before: dict[Value, Link] = {}
        if all(a_row_each(f.labels) for _, f in taken):
            before = links(taken, out, AFFINE, curved=False)
        else:
            self._breaks.add(id(step))
        facts.labels = row_labels(out.shape)
        self._cut(facts, value, before)
        kernel = step.name == "convolution"
        alpha, beta = (float(call.given.get(name, 1)) for name in ("alpha", "beta"))
        bias = call.argument("bias") if kernel else call.argument("self")
        if not kernel:
            self._site(step, "matrix", call.argument("mat2"), left, alpha)
        elif not call.argument("transposed") and call.argument("groups") == 1 and out.dim() in (3, 4):
            self._site(step, "kernel", call.argument("weight"), left, 1.0)
        if bias is not None and bias is not left and bias.numel() == out.shape[1]:
            self._site(step, "shift", bias, None, beta)

    def _scaled_or_shifted(self, step: Step) -> None:
        """A weight that each row is added to, or multiplied by."""
        (value, *_), call = step.given, step.call
        facts, out = self.of(value), value.tensor
        first, second = call.argument("self"), call.argument("other")
        for weight, other in ((first, second), (second, first)):
            if not isinstance(weight, Tensor) or not isinstance(other, Tensor) or value.edge is None:
                continue
            if out.dim() == 0 or weight.shape != out.shape[1:] or other.shape != out.shape:
                continue
            if a_row_each(facts.labels) and self._places(step, weight) is not None:
                if facts.link is None:
                    self._cut(facts, value, facts.back)
                kind = "shift" if step.name == "add" else "scale"
                scale = float(call.given.get("alpha", 1)) if weight is second else 1.0
                self._site(step, kind, weight, other if kind == "scale" else None, scale)

    def _places(self, step: Step, weight: Tensor) -> Tensor | None:
        value = step.value(weight)
        return None if value is None else self.of(value).places

    def _site(self, step: Step, kind: str, weight: Tensor, factor: Tensor | None, scale: float) -> None:
        """Note where x enters, if the weight is part of it, and what that is multiplied by is still there."""
        places = self._places(step, weight)
        if places is not None and (factor is None or step.intact(factor)):
            self.of(step.given[0]).sites.append(Site(kind, places, factor, scale, step))

    def _look_ahead(self, value: Value) -> None:
        """Whether all that comes after a value treats samples one by one, and the cuts that all of it goes through."""
        facts = self.of(value)
        users = [step for step in value.users if step.live]
        given = [v for step in users for v in step.given if self._is_live(v)]
        facts.right = not facts.broken and not any(id(step) in self._breaks for step in users)
        facts.right &= all(self.of(v).right for v in given)
        first, *rest = [self._cuts_from(v) for v in given]
        facts.after = tuple(cut for cut in first if all(cut in other for other in rest))

    def _cuts_from(self, value: Value) -> Sequence[Value]:
        if value is self.root:
            return (value,)
        facts = self.of(value)
        return (value, *facts.after) if facts.link is not None else facts.after
