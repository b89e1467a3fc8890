"""A whole gate run: sides in, outcome out."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from hograd_bench.engine import Engine
from hograd_bench.gate.exact.comparison import between_sides
from hograd_bench.gate.exact.measuring import Log, silent
from hograd_bench.gate.outcome import Finding, NotComparableError, Outcome, by_weight
from hograd_bench.gate.revisions import sides
from hograd_bench.gate.revisions.sides import Side, Twin
from hograd_bench.gate.statistics.policy import Policy, Verdict
from hograd_bench.gate.twins import loop
from hograd_bench.gate.twins.loop import Timed
from hograd_bench.gate.twins.processes import WorkerError


def sides_against(
    a: Side,
    b: Side,
    cells: Sequence[Twin],
    rules: Policy,
    *,
    seed: int,
    to_time: Sequence[Twin] | None = None,
    counts: bool = True,
    timing: bool = True,
    whole: bool = False,
    tolerance: Mapping[str, float] | None = None,
    log: Log = silent,
    engine: Engine | None = None,
) -> tuple[Outcome, Timed]:
    """Both gates on two sides measured here and now.

    Args:
        a: base.
        b: head.
        cells: what to compare with what.
        rules: the timing rule.
        seed: of the timing gate's coins.
        to_time: those of the cells whose time is compared; all where None.
        counts: whether to compare exact metrics.
        timing: whether to compare time.
        whole: whether the cells are the gate's own on B: those of A's suite are added, and what only A has is missing.
        tolerance: metric -> relative growth allowed.
        log: gets progress.
        engine: runs the cells for exact metrics; local processes where None.

    Returns:
        The outcome, and the timing gate's raw record.

    Raises:
        NotComparableError: a side has no suite or does not start.
    """
    start = time.monotonic()
    outcome = Outcome(f"{b.name} against {a.name}")
    timed = Timed()
    with sides.mirrored(a, b) as (left, right):
        if counts:
            between_sides(outcome, (a, left), (b, right), cells, tolerance, whole, log, engine)
        if timing:
            # A loaded machine may spend the budget on exact metrics; time still gets a quarter of it.
            left_over = max(rules.max_seconds - (time.monotonic() - start), rules.max_seconds / 4)
            rules = replace(rules, max_seconds=left_over)
            try:
                timed = loop.compare(left, right, cells if to_time is None else to_time, rules, seed=seed, log=log)
            except WorkerError as error:
                raise NotComparableError(f"a side cannot be measured ({error.status}): {error}") from error
            said = {(f.kind, f.cell) for f in outcome.findings}
            outcome.findings += [f for f in timed.findings if (f.kind, f.cell) not in said]
            outcome.findings += [f for name, v in timed.verdicts.items() for f in finding(name, v)]
            outcome.timing = {name: finite(v) for name, v in timed.verdicts.items()}
            outcome.pairs = len(timed.pairs)
    if not outcome.sides:
        outcome.sides = {"A": {"name": a.name}, "B": {"name": b.name}}
    for letter, side in (("A", a), ("B", b)):
        if side.commit:
            outcome.sides[letter]["commit"] = side.commit
    if not outcome.counted and not outcome.timing and (counts or timing):
        outcome.findings.append(
            Finding(
                "not comparable", "", "",
                f"no cell runs on both sides: {a.name} is from before these cells, or their names changed. Compare "
                "with a later base, name common cells with --cell, or use the committed baseline (no --base)",
            )
        )  # fmt: skip
    outcome.findings = by_weight(outcome.findings)
    outcome.seconds = time.monotonic() - start
    return outcome, timed


def finding(name: str, verdict: Verdict) -> list[Finding]:
    """What there is to say about a verdict: nothing where the cell is the same."""
    if verdict.verdict == "same":
        return []
    seen = (
        f"{verdict.change:+.1%} (interval {show(verdict.low)} to {show(verdict.high)}, {verdict.pairs} process pairs)"
    )
    if verdict.verdict == "inconclusive":
        return [
            Finding(
                "inconclusive",
                name,
                "time",
                f"time undecided: {seen}; more pairs (--max-seconds) or a quieter machine would tell",
            )
        ]
    return [Finding(str(verdict.verdict), name, "time", f"{verdict.verdict} by {seen}", 1.0, verdict.ratio)]


def show(ratio: float) -> str:
    """A ratio as a change in percent; unbounded where there were too few pairs."""
    if ratio <= 0 or math.isinf(ratio):
        return "unbounded"
    return f"{ratio - 1:+.1%}"


def finite(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON-ready values: infinities and NaN are null."""
    shown = {**asdict(verdict), "change": verdict.change}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in shown.items()}


def draw_seed() -> int:
    """A seed for the coins that nobody chose."""
    return random.SystemRandom().randrange(2**32)
