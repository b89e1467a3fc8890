"""Figures of several sizes: the law by which they grow, and whether it is no faster than allowed. Pure; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hograd_bench.limits._marks import FIGURES


@dataclass
class Group:
    """The tests of one function that differ in the size alone.

    Attributes:
        name: the test's name, with its other parameters.
        path: its file.
        over: the parameter that is the size.
        powers: argument of the mark -> largest exponent of the size.
        declared: number of sizes that the test is parametrised with.
        points: size -> argument of the mark -> the figures of the calls, in order.
        accounts: size -> argument of the mark -> what accounts for the last call's figure, as text.
    """

    name: str
    path: str
    over: str
    powers: Mapping[str, int]
    declared: int
    points: dict[int, dict[str, list[int]]] = field(default_factory=dict)
    accounts: dict[int, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What became of a group: "passed", "failed" or "skipped", and the laws, or why."""

    outcome: str
    text: str


def grouped(measured: Iterable[Mapping[str, Any]]) -> list[Group]:
    """What tests measured, one mapping each (see ``plugin.growth_of``), as groups in order of first appearance."""
    groups: dict[str, Group] = {}
    for one in measured:
        group = groups.setdefault(
            f"{one['path']}::{one['name']}",
            Group(one["name"], one["path"], one["over"], one["powers"], one["declared"]),
        )
        group.points[one["size"]] = one["figures"]
        group.accounts[one["size"]] = one["accounts"]
    return list(groups.values())


def judge(group: Group) -> Judgement:
    """The laws of a group's figures, held against what is allowed."""
    if len(group.points) < group.declared:
        return Judgement(
            "skipped", f"growth over {group.over}: {len(group.points)} of {group.declared} sizes were measured"
        )
    calls = {name: {len(p[name]) for p in group.points.values()} for name in group.powers}
    texts, failed = [], False
    for name, power in group.powers.items():
        if len(calls[name]) > 1:
            failed = True
            texts.append(f"{name}: the fixture is called {_or(calls[name])} times, by size; expected as often at each")
            continue
        for call in range(calls[name].pop()):
            points = {n: p[name][call] for n, p in sorted(group.points.items())}
            kept, text = _law(name, points, group.over, power)
            failed = failed or not kept
            texts.append(text if kept else _with_evidence(text, group, name, points))
    return Judgement("failed" if failed else "passed", "\n".join(texts))


def _law(name: str, points: Mapping[int, int], over: str, power: int) -> tuple[bool, str]:
    from hograd_bench import laws

    allowed = f"allowed O({over}^{power})" if power > 1 else f"allowed O({over if power else 1})"
    law: Any = laws.fit_exact({(n,): y for n, y in points.items()}, [over], metric=FIGURES[name], max_degree=power + 2)
    if isinstance(law, laws.ExactLaw):
        return law.degree(over) <= power, f"{name}: {law.text}; {allowed}"
    if isinstance(law, laws.NoExactLaw) and min(points.values()) > 0:
        law = laws.fit_power(list(points), [float(y) for y in points.values()], metric=FIGURES[name], variable=over)
        if isinstance(law, laws.FittedLaw):
            return law.low <= power, f"{name}: {law.text}; {allowed}"
    return False, f"{name}: {law}; {allowed}"


def _with_evidence(text: str, group: Group, name: str, points: Mapping[int, int]) -> str:
    listed = ", ".join(f"{group.over} = {n}: {y:,}" for n, y in points.items())
    largest = max(points)
    account = group.accounts[largest].get(name, "")
    return f"{text}\n    {listed}" + (f"\n  at {group.over} = {largest}\n{account}" if account else "")


def _or(numbers: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(numbers)))
