"""A whole gate run: sides in, outcome out."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hograd_bench.gate.exact import agreement, baseline, deterministic
from hograd_bench.gate.exact.counting import Counted, Log, count, silent
from hograd_bench.gate.exact.deterministic import Entry
from hograd_bench.gate.outcome import Finding, NotComparableError, Outcome, by_weight
from hograd_bench.gate.revisions import sides, trees
from hograd_bench.gate.statistics.policy import Policy, Verdict
from hograd_bench.gate.twins import loop
from hograd_bench.gate.twins.loop import Timed, Twin
from hograd_bench.gate.twins.processes import Side, WorkerError


def against_baseline(
    side: Side, cells: Sequence[str], folder: Path, *, update: bool = False,
    concerns: Callable[[str], bool] | None = None,
    tolerance: Mapping[str, float] | None = None, log: Log = silent,
) -> Outcome:  # fmt: skip
    """Exact metrics of a side against the committed baseline of this machine's key, and results against truth.

    Args:
        side: what to measure.
        cells: ids of the gate's cells.
        folder: where baselines lie.
        update: write what was measured into the baseline.
        concerns: which of the baseline's cells are asked about, all where None; the others stay as they are.
        tolerance: metric -> relative growth allowed.
        log: gets progress.

    Returns:
        The outcome; without a baseline for the key it is "not comparable", never a pass.

    Raises:
        BaselineError: the baseline is damaged.
        NotComparableError: the side has no suite.
    """
    start = time.monotonic()
    with trees.scratch() as results_of:
        counted = count(side, cells, results_of, log, truth=True)
    key, head = counted.key, counted.entries
    outcome = Outcome(f"exact metrics against the baseline {key.filename}", sides={"head": {"name": side.name}})
    stored = None
    if not update or concerns is not None:  # a damaged one is no obstacle to writing all of it anew
        stored = baseline.load(folder, key)
    others = {c: e for c, e in (stored or {}).items() if concerns is not None and not concerns(c)}
    base = {c: e for c, e in (stored or {}).items() if c not in others}
    outcome.findings = deterministic.compare(base, head, tolerance)
    wrong = [f for f in outcome.findings if f.kind == "wrong"]
    outcome.counted = _compared(base, head)
    if update:
        outcome.findings = wrong
        outcome.counted = len(head)
        if wrong:
            log("nothing written: a baseline holds no wrong results")
        else:
            path = baseline.save(folder, key, {**others, **head})
            kept = f", {len(others)} others as they were" if others else ""
            log(f"wrote {path}: {len(head)} cells{kept}; read the diff, then commit it")
    elif base and not outcome.counted and not wrong:
        outcome.findings.append(
            Finding("not comparable", "", "", f"none of these cells is ok both in {key.filename} and now")
        )
    elif not base and stored is not None and not wrong:
        outcome.findings.append(
            Finding("not comparable", "", "", f"{key.filename} has none of these cells; --update adds them")
        )
    elif stored is None and not wrong:
        known = baseline.available(folder)
        outcome.findings = [
            Finding(
                "not comparable", "", "",
                f"no baseline for this key ({key}) in {folder}; `hograd gate --update` on this machine writes "
                f"{key.filename}, or `hograd gate --base REV` measures both sides here. Baselines there are: "
                f"{', '.join(known) or 'none'}",
            )
        ]  # fmt: skip
    outcome.findings = by_weight(outcome.findings)
    outcome.seconds = time.monotonic() - start
    return outcome


def _compared(base: Mapping[str, Entry], head: Mapping[str, Entry]) -> int:
    """How many cells run on both sides and have a metric in common."""
    return sum(
        base[cell].status == entry.status == deterministic.OK
        and not base[cell].metrics.keys().isdisjoint(entry.metrics)
        for cell, entry in head.items()
        if cell in base
    )


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
            _count_both(outcome, (a, left), (b, right), cells, tolerance, whole, log)
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


def _count_both(
    outcome: Outcome,
    a: tuple[Side, Side],
    b: tuple[Side, Side],
    cells: Sequence[Twin],
    tolerance: Mapping[str, float] | None,
    whole: bool,
    log: Log,
) -> None:
    """Exact metrics and results of both sides, each as it is named and as it is reached, into the outcome."""
    base, head, wrong = _measured(a[1], b[1], cells, whole, log)
    if base.unlisted:
        said = f"{a[0].name} cannot list its gate's cells ({base.unlisted}): what only it has is not measured"
        outcome.findings.append(Finding("unsteady", "", "", said))
    if whole and (others := [c for c in base.preset if c not in {t.a for t in cells}]):
        # The gate's cells of A that are none of B's: a method that lost an order, a problem that moved.
        log(f"{len(others)} cells of {a[0].name}'s gate are not in {b[0].name}'s: measured on both")
        added = [Twin(c, c, c) for c in others]
        more_base, more_head, more_wrong = _measured(a[1], b[1], added, False, log)
        base.entries.update(more_base.entries)
        head.entries.update(more_head.entries)
        cells, wrong = [*cells, *added], wrong + more_wrong
    outcome.findings += wrong
    outcome.sides = {"A": {"name": a[0].name, **asdict(base.key)}, "B": {"name": b[0].name, **asdict(head.key)}}
    named_a = {t.name: base.entries[t.a] for t in cells if t.a in base.entries}
    named_b = {t.name: head.entries[t.b] for t in cells if t.b in head.entries}
    outcome.findings += deterministic.compare(named_a, named_b, tolerance, stored=False)
    outcome.counted = _compared(named_a, named_b)
    if whole:
        outcome.findings += _gone(base.methods, head.methods)


def _measured(a: Side, b: Side, cells: Sequence[Twin], whole: bool, log: Log) -> tuple[Counted, Counted, list[Finding]]:
    """Counts of both sides, and where their results disagree."""
    stopped = threading.Event()
    with trees.scratch() as folder, ThreadPoolExecutor(2) as pool:
        counting = []
        # Exact figures do not care who else runs: both sides at once. Truth is asked of the head alone: the base is
        # what it is, and two sides that agree within rounding may both be a little off.
        for letter, side, names in (("a", a, [t.a for t in cells]), ("b", b, [t.b for t in cells])):
            (folder / letter).mkdir()
            counting.append(
                pool.submit(
                    count, side, names, folder / letter, log, truth=letter == "b",
                    preset=whole and letter == "a" and not side.plugins, stop=stopped.is_set,
                )
            )  # fmt: skip
        try:
            base, head = (c.result() for c in counting)
        except BaseException:  # Ctrl-C among others: the pool waits for its threads, so that they must end soon
            stopped.set()
            raise
        return base, head, _disagreements(cells, base, head)


def _disagreements(cells: Sequence[Twin], base: Counted, head: Counted) -> list[Finding]:
    """Cells whose results differ between the sides by more than rounding, or than the method allows itself.

    Those that are wrong by themselves, against truth or their own first call, say so by their entry.
    """
    found = []
    for twin in cells:
        right = all(
            c in side.results and side.entries[c].status != deterministic.WRONG
            for side, c in ((base, twin.a), (head, twin.b))
        )
        if right:
            why = agreement.between(base.results[twin.a], head.results[twin.b])
            if why is not None:
                found.append(Finding("wrong", twin.name, "result", f"the sides disagree: {why}"))
    return found


def _gone(before: frozenset[str], now: frozenset[str]) -> list[Finding]:
    """Methods that only the base has: no cell of the head speaks of them."""
    found = []
    for name in sorted(before - now):
        operator = name.partition("/")[0]
        fresh = sorted(n for n in now - before if n.startswith(f"{operator}/"))
        hint = f"; renamed to {fresh[0]}?" if fresh else ""
        found.append(Finding("missing", name, "", f"the method was there before, is gone now{hint}"))
    return found


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
