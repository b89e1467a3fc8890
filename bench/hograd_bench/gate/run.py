"""A whole gate run: sides in, outcome out."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hograd_bench.gate import baseline, deterministic, live, sides
from hograd_bench.gate.baseline import Key
from hograd_bench.gate.deterministic import Entry
from hograd_bench.gate.live import Timed, Twin
from hograd_bench.gate.outcome import Finding, Outcome, by_weight
from hograd_bench.gate.policy import Policy, Verdict
from hograd_bench.gate.twins import Side, Worker, WorkerError, environment

# Integer metrics of these units: smaller is better for all of them. Accuracy has its own check.
UNITS = ("B", "1", "FLOP")
WITHOUT = ("accuracy",)
Tell = Callable[[str], None]


def _silent(line: str) -> None:
    """Hear nothing."""


def count(side: Side, cells: Sequence[str], tell: Tell = _silent) -> tuple[Key, dict[str, Entry]]:
    """Exact metrics of cells on a side, each cell after the same warm-up, in one process.

    Args:
        side: what to measure.
        cells: ids.
        tell: hears a line per ten cells.

    Returns:
        The key that the figures depend on, and entries by cell; cells that the side does not know are left out.

    Raises:
        NotComparableError: the side has no suite or does not start.
    """
    entries: dict[str, Entry] = {}
    key: Key | None = None
    left = list(cells)
    while left:
        # A crash takes the process with it: the next worker goes on behind the cell that crashed.
        with Worker(side, environment(1, hash_seed=1, padding=0), timeout=180.0) as worker:
            key = _greet(worker, cells)
            while left:
                cell = left.pop(0)
                try:
                    reply = worker.ask("count", cell=cell, units=UNITS, without=WITHOUT)
                except WorkerError as error:
                    if error.status != "missing":
                        entries[cell] = Entry(error.status, reason=str(error))
                    if error.status in ("crashed", "timeout"):
                        break
                else:
                    entries[cell] = entry(reply)
                if len(left) % 10 == 0:
                    tell(f"{side.name}: exact metrics, {len(left)} cells left")
    if key is None:
        raise sides.NotComparableError("no cells: nothing to measure; see --cells")
    return key, entries


def _greet(worker: Worker, cells: Sequence[str]) -> Key:
    side = worker.side
    try:
        said = worker.ask("hello", plugins=list(side.plugins), own_suite=side.own_suite)
    except WorkerError as error:
        raise sides.NotComparableError(f"{side.name} cannot be measured ({error.status}): {error}") from error
    gpu = any("/cuda/" in cell for cell in cells)
    return Key(said["torch"], said["machine"], said["isa"], (said["gpu"] or "no GPU") if gpu else "cpu")


def entry(reply: Mapping[str, Any]) -> Entry:
    """A baseline entry from a worker's counts."""
    details = reply["details"]
    peak: dict[str, int] = {}
    for row in details.get("peak_attribution") or ():
        name = _plain(f"{row['phase']}/{row['op']}")
        peak[name] = peak.get(name, 0) + int(row["bytes"])
    ops = {_plain(op): int(n) for op, n in (details.get("aten_by_op") or {}).items()}
    return Entry(deterministic.OK, dict(reply["values"]), ops, peak)


def _plain(name: str) -> str:
    """An op's or phase's name without its namespace and without characters that the baseline reserves."""
    kept = name.replace("aten::", "").removeprefix("aten.")
    return "".join("_" if c.isspace() or c in "=|" else c for c in kept)


def against_baseline(
    side: Side, cells: Sequence[str], folder: Path, *, update: bool = False,
    tolerance: Mapping[str, float] | None = None, tell: Tell = _silent,
) -> Outcome:  # fmt: skip
    """Exact metrics of a side against the committed baseline of this machine's key.

    Args:
        side: what to measure.
        cells: ids of the gate's cells.
        folder: where baselines lie.
        update: write what was measured as the new baseline.
        tolerance: metric -> relative growth allowed.
        tell: hears progress.

    Returns:
        The outcome; without a baseline for the key it is "not comparable", never a pass.

    Raises:
        BaselineError: the baseline is damaged.
        NotComparableError: the side has no suite.
    """
    start = time.monotonic()
    key, head = count(side, cells, tell)
    outcome = Outcome(f"exact metrics against the baseline {key.filename}", sides={"head": {"name": side.name}})
    base = baseline.load(folder, key)
    if base is not None:
        outcome.findings = deterministic.compare(base, head, tolerance)
        outcome.counted = sum(e.status == deterministic.OK for e in head.values())
    if update:
        path = baseline.save(folder, key, head)
        outcome.findings = []
        outcome.counted = len(head)
        tell(f"wrote {path}: {len(head)} cells; read the diff, then commit it")
    elif base is None:
        known = baseline.available(folder)
        outcome.findings = [
            Finding(
                "not comparable", "", "",
                f"no baseline for this key ({key}) in {folder}; `hograd gate --update` on this machine writes "
                f"{key.filename}, or `hograd gate --base REV` measures both sides here. Baselines there are: "
                f"{', '.join(known) or 'none'}",
            )
        ]  # fmt: skip
    outcome.seconds = time.monotonic() - start
    return outcome


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
    tolerance: Mapping[str, float] | None = None,
    plants: dict[str, float] | None = None,
    tell: Tell = _silent,
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
        tolerance: metric -> relative growth allowed.
        plants: cell -> slowdown planted on B, for the study.
        tell: hears progress.

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
            # Exact figures do not care who else runs: both sides at once.
            with ThreadPoolExecutor(2) as pool:
                counting = [
                    pool.submit(count, side, names, tell)
                    for side, names in ((left, [t.a for t in cells]), (right, [t.b for t in cells]))
                ]
                (key_a, base), (key_b, head) = (c.result() for c in counting)
            outcome.sides = {"A": {"name": a.name, **asdict(key_a)}, "B": {"name": b.name, **asdict(key_b)}}
            named_a = {t.name: base[t.a] for t in cells if t.a in base}
            named_b = {t.name: head[t.b] for t in cells if t.b in head}
            outcome.findings += deterministic.compare(named_a, named_b, tolerance, stored=False)
            outcome.counted = sum(named_a[name].status == "ok" for name in named_a if name in named_b)
        if timing:
            # A loaded machine may spend the budget on exact metrics; time still gets a quarter of it.
            left_over = max(rules.max_seconds - (time.monotonic() - start), rules.max_seconds / 4)
            rules = replace(rules, max_seconds=left_over)
            try:
                timed = live.compare(
                    left, right, cells if to_time is None else to_time, rules, seed=seed, plants=plants, tell=tell
                )
            except WorkerError as error:
                raise sides.NotComparableError(f"a side cannot be measured ({error.status}): {error}") from error
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
        return [Finding("inconclusive", name, "time", f"time undecided: {seen}; the machine was too noisy or busy")]
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
