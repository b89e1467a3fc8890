"""Whole runs of every rule, resampled from recorded pairs. Pure.

A run starts at a random recorded pair and goes on in the order of recording (around the end), so drift and spells
of load stay together. The sides of an identical pair are exchanged or not by a fair coin, all cells at once: that
is what the gate's own coin does, so it makes new runs of the same distribution, not of another one. What
resampling cannot make up is weather that was never recorded; the rates speak for the machine and hours recorded. Where
the live gate would look longer at the few cells that are left than the recording did, the recorded turns must do: the
power of resampled runs is, if anything, too low. A resampled run ends when the seconds of its pairs are used up, as the
live gate does: the recorded imports of each pair, the preparation of the cells that are left, and their turns.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from hograd_bench.gate.statistics import policy
from hograd_bench.gate.statistics.policy import Policy
from hograd_bench.gate.twins.processes import TURN_NS, turns_for

from studies.gate.recording import Recorded
from studies.gate.rules import Process, Rule

# What a turn takes beside its calls: the hand-over and the collector.
OVERHEAD = 1.15


@dataclass(frozen=True)
class Resampled:
    """A resampled run.

    Attributes:
        verdicts: verdict by cell.
        pairs: process pairs it took.
        seconds: what it would have taken.
    """

    verdicts: dict[str, str]
    pairs: int
    seconds: float


def _window(pairs: Sequence[Recorded], length: int, rng: random.Random) -> list[Recorded]:
    start = rng.randrange(len(pairs))
    return [pairs[(start + i) % len(pairs)] for i in range(length)]


def gate_run(
    same: Sequence[Recorded], planted: Sequence[Recorded], cell: str | None, rules: Policy, rng: random.Random
) -> Resampled:
    """One resampled run.

    Args:
        same: pairs of identical sides.
        planted: pairs in which B was slowed down; used for ``cell`` alone.
        cell: the slowed cell, or None.
        rules: the policy.
        rng: source of starts and coins.

    Returns:
        Its verdicts, and what they took.
    """
    cells = sorted(set.intersection(*(set(p.cells) for p in same)))
    progress = policy.Progress(cells, rules)
    slowed = _window(planted, rules.max_pairs, rng) if cell is not None else [None] * rules.max_pairs
    pairs, seconds, last = 0, 0.0, 0.0
    for pair, with_plant in zip(_window(same, rules.max_pairs, rng), slowed, strict=True):
        if not progress.left or (pairs and seconds + last > rules.max_seconds):
            break
        sign = rng.choice((-1.0, 1.0))
        left = len(progress.left)
        seen = {c: _read(pair, c, left, sign) for c in progress.left}
        if cell in seen and with_plant is not None:
            seen[cell] = _read(with_plant, cell, left, 1.0)
        last = pair.imports + pair.preparation * left / len(cells)
        last += sum(_seconds(pair, c, left) for c in progress.left)
        pairs, seconds = pairs + 1, seconds + last
        progress.add(seen)
    return Resampled({c: str(v.verdict) for c, v in progress.conclude().items()}, pairs, seconds)


def _read(pair: Recorded, cell: str, left: int, sign: float) -> policy.Reading:
    """A cell's reading with as many of the recorded turns as the live gate takes when that many cells are left."""
    ratio, error = _reading(pair, cell, _turns(pair, cell, left))
    return policy.Reading(sign * ratio, error)


@functools.cache
def _reading(pair: Recorded, cell: str, turns: int) -> policy.Reading:
    return pair.reading(cell, turns)


def _turns(pair: Recorded, cell: str, left: int) -> int:
    return turns_for(min(process.least for process in pair.cells[cell]), left)


def _seconds(pair: Recorded, cell: str, left: int) -> float:
    middle = sum(process.middle for process in pair.cells[cell]) / 2
    return 2 * _turns(pair, cell, left) * max(middle, TURN_NS) * OVERHEAD / 1e9


def rival_run(
    rule: Rule, same: Sequence[Recorded], planted: Sequence[Recorded], cell: str | None, rng: random.Random
) -> set[str]:
    """Cells that a rival rule calls slower in one resampled run; arguments as in :func:`gate_run`.

    Processes of the two sides alternate in time: A of one pair, B of the next.
    """
    cells = sorted(set.intersection(*(set(p.cells) for p in same)))
    window = _window(same, 2 * rule.processes, rng)
    slowed = _window(planted, 2 * rule.processes, rng) if cell is not None else []
    fired = set()
    for name in cells:
        a = [_side(p, name, rng) for p in window[0::2]]
        b = [p.cells[name][1] for p in slowed[1::2]] if name == cell else [_side(p, name, rng) for p in window[1::2]]
        if rule.fires(a, b):
            fired.add(name)
    return fired


def _side(pair: Recorded, cell: str, rng: random.Random) -> Process:
    return pair.cells[cell][rng.randrange(2)]
