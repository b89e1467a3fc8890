"""Collapsed Taylor passes with packed coefficients: of R directions an element keeps its own (cf. Li et al. 2024).

Most values of a function of many coordinates depend on few of them until they meet. A first run, of few points, plans:
it follows what each element depends on (:mod:`hograd_core.sparse`), and says of each operation in how many slots the
derivatives of its result fit, and which arguments must be moved to them before. A second run, of all points, does so.
Rules see slots as they see directions; of the highest coefficient the sum over all directions is carried as before:
an element has no derivative along the directions left out, and no two of its own share a slot.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hograd_core.arguments import _tree
from hograd_core.prepare.graphs._trace import assume
from hograd_core.sparse._sets import Sets, TooManyError
from hograd_core.sparse._slots import Move, Reached, along, move, reached
from hograd_core.taylor._collapsed import Wide
from hograd_core.taylor._jet import Jet, jets_of, new_level, replaced
from hograd_core.taylor._series import Series


class Step(NamedTuple):
    """One operation of a plan.

    Attributes:
        func: which. shapes: of the series among its arguments, at the few points.
        rows: slots that its arguments have, moved; R: a row for each direction.
        moves: of each of these arguments; None: it lies right, and may lack rows, which are zero.
        spread: whether arguments are broadcast to the shape of the result before they are moved.
        held: values of the positions among its arguments, on which the step rests.
    """

    func: Any
    shapes: list[tuple[int, ...]]
    rows: int
    moves: list[Move | None]
    spread: bool
    held: list[Tensor]


class Plan(NamedTuple):
    """Operations one after the other; ``work`` in elements times rows, and that of a run with a row for each of R."""

    points: int
    directions: int
    steps: list[Step]
    work: int
    full: int


def planned(f: Callable[[Tensor], Tensor], x: Tensor, found: Sets) -> Plan:
    """How f's derivatives are packed, by a run at a few points x, (points, d).

    Args:
        f: each of its values depends on one point.
        x: the points.
        found: what their elements depend on: number p R + r is direction r of point p.

    Raises:
        TooManyError: there is no plan.
        MissingRuleError: f uses an operation without a rule.
    """
    jet = Jet(Series([x, None, None]), new_level(), recorded=torch.is_grad_enabled())
    jet.packing = planner = _Planner(jet, found, x.shape[0])
    f(jet)
    return planner.plan


def summed_by_plan(
    f: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor, order: int, plan: Plan, *, recorded: bool
) -> Tensor:
    """Σ_r dᵏ/dtᵏ f(x + t v_r) at t = 0 along directions of which no element of x has two.

    Args:
        f: as planned.
        x: any number of points, (N, d).
        direction: the sum of the directions, shaped like x.
        order: k >= 2.
        plan: of f, by :func:`planned`.
        recorded: whether autograd records the result.

    Raises:
        TooManyError: f went another way than the plan, or positions are others; a kernel looks at these in each call.
    """
    first: Any = Wide(direction[None])
    series = Series([x, first, *[None] * (order - 1)])
    jet = Jet(series, new_level(), recorded, 1.0)
    jet.packing = _Packing(plan, x.shape[0])
    result = f(jet)
    if not isinstance(result, Jet) or result.level != jet.level or result.coefficients[order] is None:
        return torch.zeros_like(result.coefficients[0] if isinstance(result, Jet) else result)
    found: Tensor = result.coefficients[order] * (math.factorial(order) * _rows(result))
    return found


class _Planner:
    """Watches a run at a few points."""

    def __init__(self, jet: Jet, found: Sets, points: int) -> None:
        self.plan = Plan(points, found.n // points, [], 0, 0)
        self._known: dict[int, tuple[Jet, Sets, int]] = {id(jet): (jet, found, 1)}
        self._decided: dict[int, Tensor] = {}  # what the points' values decide

    def before(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """Arguments as they are: nothing is carried."""
        if torch.Tag.inplace_view in func.tags or any(jet.packing is not self for jet in jets_of(args, kwargs)):
            raise TooManyError
        return args, kwargs

    def after(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        """Plan an operation."""
        plan, jets = self.plan, jets_of(args, kwargs)
        entries = [self._known.get(id(jet)) for jet in jets]
        step = None
        if all(entries):
            with contextlib.suppress(TooManyError):
                step = self._packed(func, args, kwargs, jets, entries, result)
        if step is None:
            moves = [e and move(e[1], None, plan.directions, tuple(e[0].shape), plan.points) for e in entries]
            step = Step(func, [tuple(jet.shape) for jet in jets], plan.directions, moves, False, [])
            for jet in _tree.leaves(result):  # which may be an argument, written in place
                self._known.pop(id(jet), None)
        plan.steps.append(step)
        self._decided |= {id(t): t for t in _tree.leaves(result) if isinstance(t, Tensor) and not isinstance(t, Jet)}
        size = sum(jet.numel() for jet in _tree.leaves(result) if isinstance(jet, Jet))
        moved = sum(math.prod(m.shape) * m.rows for m in step.moves if m is not None)
        self.plan = plan._replace(work=plan.work + size * step.rows + moved, full=plan.full + size * plan.directions)

    def _packed(
        self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], jets: list[Jet], entries: list[Any], result: Any
    ) -> Step:
        """A step in slots; what its results depend on is known from then on.

        Raises:
            TooManyError: there is none.
        """
        shapes = [tuple(jet.shape) for jet in jets]
        known: list[Sets] = [entry[1] for entry in entries]
        to, at, spread = known, shapes, False
        found = self._reached(func, args, kwargs, jets, to, result)
        if not _aligned(found) and torch.Tag.pointwise in func.tags and len(found) == 1:
            spread = True
            at = [tuple(result.shape)] * len(jets)
            known = [each.spread(shape, result.shape) for each, shape in zip(known, shapes, strict=True)]
            to = [found[0][1].sets] * len(jets)
        axis = 0
        while not (spread or _aligned(found)):
            axis -= 1
            if axis < -min(map(len, shapes)):
                raise TooManyError
            to = [along(each, shape, axis) for each, shape in zip(known, shapes, strict=True)]
            found = self._reached(func, args, kwargs, jets, to, result)
        stay = [
            shape == goal and torch.equal(a.starts, b.starts) and torch.equal(a.members, b.members)
            for a, b, shape, goal in zip(known, to, shapes, at, strict=True)
        ]
        lying = (entry[2] for entry, stays in zip(entries, stay, strict=True) if stays)
        rows = max(1, *lying, *(int(each.sizes.max()) for each in (*to, *(r.sets for _, r in found))))
        if 2 * rows > self.plan.directions:
            raise TooManyError
        moves = [
            None if stays else move(a, b, rows, shape, self.plan.points)
            for stays, a, b, shape in zip(stay, known, to, at, strict=True)
        ]
        held = _positions(args, kwargs) if any(each.looked for _, each in found) else []
        if any(id(t) in self._decided for t in held):
            raise TooManyError
        for jet, each in found:
            self._known[id(jet)] = (jet, each.sets, rows)
        return Step(func, shapes, rows, moves, spread, [t.clone() for t in held])

    def _reached(
        self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], jets: list[Jet], known: list[Sets], result: Any
    ) -> list[tuple[Jet, Reached]]:  # fmt: skip
        """The series among the results, and what they depend on if the arguments depend on what is ``known``."""
        values = [jet.coefficients[0].detach().clone() for jet in jets]
        given = iter(values)
        plain = replaced(args, given), {name: replaced(value, given) for name, value in kwargs.items()}
        answers = _tree.leaves(reached(func, *plain, [*zip(values, known, strict=True)]))
        leaves = _tree.leaves(result)
        if len(answers) != len(leaves):
            raise TooManyError
        found = [(leaf, answer) for leaf, answer in zip(leaves, answers, strict=True) if isinstance(leaf, Jet)]
        for _, answer in found:
            owner = answer.sets.members // self.plan.directions
            if bool((owner != owner[answer.sets.starts[answer.sets.rows]]).any()):
                raise TooManyError
        return found


def _aligned(found: list[tuple[Jet, Reached]]) -> bool:
    return all(each.aligned for _, each in found)


class _Packing:
    """Moves the arguments of each operation as a plan says."""

    def __init__(self, plan: Plan, points: int) -> None:
        if plan.points == 1 != points:  # of one point it cannot be told which axes go through the points
            raise TooManyError
        self._plan, self._points = plan, points
        self._steps = iter(plan.steps)

    def before(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """The arguments, moved."""
        step, jets = next(self._steps, None), jets_of(args, kwargs)
        if step is None or step.func is not func or any(jet.packing is not self for jet in jets):
            raise TooManyError
        self._check(jets, step.shapes)
        for given, held in zip(_positions(args, kwargs), step.held, strict=False):
            values = torch.tensor(held.tolist(), device=given.device)
            if given.shape != values.shape or not assume((given == values).all()):
                raise TooManyError
        tensors = [t.shape for t in _tree.leaves((tuple(args), kwargs)) if isinstance(t, Tensor)]
        shape = torch.broadcast_shapes(*tensors) if step.spread else None  # type: ignore[no-untyped-call]
        moved = iter(
            [self._moved(jet, m, step.rows, shape or jet.shape) for jet, m in zip(jets, step.moves, strict=True)]
        )
        return replaced(args, moved), {name: replaced(value, moved) for name, value in kwargs.items()}

    def after(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        """Nothing: the result has the rows of its arguments."""

    def _check(self, jets: Sequence[Jet], small: Sequence[tuple[int, ...]]) -> None:
        """That these are, but for the number of points, of the planned shapes."""
        few, points = self._plan.points, self._points
        if [jet.dim() for jet in jets] != [len(shape) for shape in small]:
            raise TooManyError
        for jet, shape in zip(jets, small, strict=True):
            if any(b not in (a, a // few * points) for a, b in zip(shape, jet.shape, strict=True)):
                raise TooManyError

    def _moved(self, jet: Jet, m: Move | None, rows: int, shape: Sequence[int]) -> Jet:
        lying = _rows(jet)
        if m is None and rows == lying:
            return jet
        value, *between, highest = jet.coefficients
        between = [c and Wide(_padded(c.each, rows) if m is None else m.apply(c.each, shape)) for c in between]
        total = None if highest is None else highest * (lying / rows)
        if m is not None:
            value, total = value.expand(shape), None if total is None else total.expand(shape)
        moved = Jet(Series([value, *between, total]), jet.level, jet.recorded, 1 / rows)
        moved.packing = self
        return moved


def _positions(args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among arguments that hold no real numbers."""
    leaves = _tree.leaves((tuple(args), kwargs))
    return [t for t in leaves if isinstance(t, Tensor) and not t.dtype.is_floating_point]


def _rows(jet: Jet) -> int:
    """In how many slots its derivatives lie: each weighs the same."""
    assert isinstance(jet.weights, float)
    return round(1 / jet.weights)


def _padded(each: Tensor, rows: int) -> Tensor:
    return torch.cat([each, each.new_zeros(rows - each.shape[0], *each.shape[1:])])
