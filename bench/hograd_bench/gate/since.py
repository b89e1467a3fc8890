"""Slow poison: what pairwise gates let through, added up over history. Pure functions of stored figures.

Two sources. Exact metrics: baselines of an earlier revision, or rows of stored runs; every banked growth is
listed with the total. Time: A/B log-ratios between commits, recorded by gate runs; a chain of them, or a
net with direct comparisons against an anchor such as the last release, is solved by weighted least squares, so
direct ("anchored") measurements keep the error of a long chain from growing. How far an error from few pairs can be
trusted is kept with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from hograd_bench.gate.deterministic import OK, Entry, blame
from hograd_bench.gate.outcome import Finding
from scipy import special

SCHEMA = 1
# A ratio is never trusted to better than this, whatever the spread of its pairs: layouts differ between builds.
LEAST_ERROR = 0.002
# Fewer say nothing of their own spread.
LEAST_PAIRS = 5


History = Sequence[tuple[str, Mapping[str, Entry]]]


def exact_drift(history: History, allowed: float, *, whole: bool = True) -> tuple[list[Finding], int]:
    """Growth of exact metrics to the last of several baselines, of each metric from where it first appears.

    Args:
        history: (revision, entries), oldest first; at least two.
        allowed: relative growth over the whole span that is not worth a word.
        whole: whether an entry that the last revision lacks is gone; False where it may not have been asked for.

    Returns:
        Findings: metrics that grew by more, largest first, each with the steps that made it; then what was there and
        is gone, or runs no more. And the number of the last revision's cells that have a metric in common with an
        earlier one.

    Raises:
        ValueError: fewer than two revisions.
    """
    if len(history) < 2:
        raise ValueError(f"history: got {len(history)} revisions, expected at least two")
    last = history[-1][1]
    grown: list[tuple[float, Finding]] = []
    gone: list[Finding] = []
    compared = 0
    for cell, born in _births(history[:-1]).items():
        new = last.get(cell)
        if new is None or new.status != OK:
            kind, metric = ("missing", "") if new is None else ("broken", "status")
            now = "is there no more" if new is None else f"is {new.status} now"
            if new is not None or whole:
                gone.append(Finding(kind, cell, metric, f"was ok at {_latest(history, cell)}, {now}{_LATER}"))
            continue
        compared += not born.keys().isdisjoint(new.metrics)
        for name, (revision, old) in born.items():
            before, after = old.metrics[name], new.metrics.get(name)
            if after is None:
                if whole:
                    text = f"{name} is measured no more (was {before:,} at {revision}){_LATER}"
                    gone.append(Finding("missing", cell, name, text, before))
                continue
            growth = after / before - 1 if before else math.inf if after > 0 else 0.0
            if growth > allowed:
                steps = _steps(history, cell, name)
                text = (
                    f"{name} {before:,} -> {after:,} ({growth:+.1%}) since {revision}, in {len(steps)} "
                    f"step{'s' * (len(steps) != 1)}: {', '.join(steps)}{blame(name, old, new)}"
                )
                grown.append((growth, Finding("growth", cell, name, text, before, after)))
    return [f for _, f in sorted(grown, key=lambda x: -x[0])] + gone, compared


_LATER = "; if that is meant, start --since at a later revision"


def _births(history: History) -> dict[str, dict[str, tuple[str, Entry]]]:
    """For every cell that ever ran: its metrics, each with the revision and the entry of its first appearance."""
    births: dict[str, dict[str, tuple[str, Entry]]] = {}
    for revision, entries in history:
        for cell, entry in entries.items():
            if entry.status == OK:
                own = births.setdefault(cell, {})
                for name in entry.metrics:
                    own.setdefault(name, (revision, entry))
    return births


def _latest(history: History, cell: str) -> str:
    """The last revision at which a cell ran."""
    return next(revision for revision, entries in reversed(history) if cell in entries and entries[cell].status == OK)


def _steps(history: History, cell: str, metric: str) -> list[str]:
    steps, previous = [], None
    for revision, entries in history:
        entry = entries.get(cell)
        value = entry.metrics.get(metric) if entry is not None else None
        if value is not None:
            if previous is not None and value != previous:
                steps.append(f"{value - previous:+,} at {revision}")
            previous = value
    return steps


def from_rows(rows: Iterable[Mapping[str, Any]], deterministic: Iterable[str]) -> list[tuple[str, dict[str, Entry]]]:
    """Stored rows as a history for :func:`exact_drift`.

    Args:
        rows: rows of runs (see docs/architecture.md), oldest run first.
        deterministic: names of the metrics that may be compared exactly.

    Returns:
        (run, entries), in order of first appearance.
    """
    wanted = set(deterministic)
    runs: dict[str, dict[str, Entry]] = {}
    for row in rows:
        numbers = {
            k: int(v)
            for k, v in row["metrics"].items()
            if k in wanted and isinstance(v, int | float) and not isinstance(v, bool) and float(v).is_integer()
        }
        entries = runs.setdefault(row["run"], {})
        if row["status"] != "skipped":  # never tried: nothing is known of it
            entries[row["cell"]] = Entry(row["status"], numbers)
    return list(runs.items())


@dataclass(frozen=True)
class Ratio:
    """One recorded A/B comparison of a cell.

    Attributes:
        a, b: commits.
        cell: id.
        log_ratio: trimmed mean over process pairs of log(time b / time a).
        error: standard error of it.
        machine: what ran it; ratios of one machine chain, those of several are mixed at the reader's risk.
        when: UTC time, ISO.
        pairs: how many; 0 where an older ledger does not say.
    """

    a: str
    b: str
    cell: str
    log_ratio: float
    error: float
    machine: str = ""
    when: str = ""
    pairs: int = 0

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the error; of the fewest pairs where their number is not known."""
        pairs = self.pairs or LEAST_PAIRS
        return pairs - 2 * _cut(pairs) - 1

    def to_line(self) -> str:
        """One JSON line."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, allow_nan=False)


def _cut(pairs: int) -> int:
    """How many pairs are trimmed at either end: a fifth."""
    return pairs // 5


def ratio(a: str, b: str, cell: str, pairs: Sequence[float], machine: str = "", when: str = "") -> Ratio:
    """A recorded comparison from the log-ratios of its process pairs.

    The mean without the lowest and the highest fifth, which outliers do not move, and its standard error from the
    winsorized spread (Tukey & McLaughlin 1963), never below :data:`LEAST_ERROR`.

    Raises:
        ValueError: fewer than :data:`LEAST_PAIRS` pairs.
    """
    if len(pairs) < LEAST_PAIRS:
        raise ValueError(f"pairs: got {len(pairs)}, expected at least {LEAST_PAIRS}, or their spread is not known")
    cut = _cut(len(pairs))
    values = np.sort(np.asarray(pairs, dtype=float))
    kept = values[cut : len(values) - cut]
    winsorized = np.clip(values, kept[0], kept[-1])
    squares = float(np.sum((winsorized - winsorized.mean()) ** 2))
    error = max(math.sqrt(squares / (len(kept) * (len(kept) - 1))), LEAST_ERROR)
    return Ratio(a, b, cell, float(kept.mean()), error, machine, when, len(values))


def parse_ledger(text: str, where: str) -> list[Ratio]:
    """Recorded comparisons of a ledger file, without those that say they are of fewer than :data:`LEAST_PAIRS` pairs.

    Raises:
        ValueError: a line is damaged or of a newer schema; the message names file and line.
    """
    ratios = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            schema = data.pop("schema")
            if schema != SCHEMA:
                raise ValueError(f"schema {schema!r}, this version reads {SCHEMA}")
            read = Ratio(**data)
            if not (math.isfinite(read.log_ratio) and math.isfinite(read.error) and read.error > 0):
                raise ValueError("log_ratio and error must be finite, error above 0")
            if type(read.pairs) is not int or read.pairs < 0:
                raise ValueError(f"pairs: got {read.pairs!r}, expected a whole number from 0")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{where}:{number}: {error}; remove the line or restore the file from git") from error
        if read.pairs == 0 or read.pairs >= LEAST_PAIRS:
            ratios.append(read)
    return ratios


@dataclass(frozen=True)
class Level:
    """Log time of a commit relative to the anchor, its standard error, and the error's degrees of freedom."""

    log: float
    error: float
    freedom: float


@dataclass(frozen=True)
class _Edge:
    """Everything that was measured between two commits."""

    a: str
    b: str
    log: float
    error: float
    freedom: float


def _pooled(ratios: Iterable[Ratio]) -> list[_Edge]:
    """One edge for each two commits: lines weigh by their pairs, and share one estimate of the pairs' spread.

    Weighed by their own errors, which few pairs estimate badly, those lines would count most that look exact by luck.
    """
    lines: dict[tuple[str, str], list[tuple[float, Ratio]]] = {}
    for r in ratios:
        if r.a != r.b:
            a, b = sorted((r.a, r.b))
            lines.setdefault((a, b), []).append((r.log_ratio if a == r.a else -r.log_ratio, r))
    edges = []
    for (a, b), found in lines.items():
        pairs = [r.pairs or LEAST_PAIRS for _, r in found]
        freedom = sum(r.freedom for _, r in found)
        spread = sum(r.freedom * n * r.error**2 for n, (_, r) in zip(pairs, found, strict=True)) / freedom
        mean = sum(n * log for n, (log, _) in zip(pairs, found, strict=True)) / sum(pairs)
        edges.append(_Edge(a, b, mean, max(math.sqrt(spread / sum(pairs)), LEAST_ERROR), freedom))
    return edges


def levels(ratios: Iterable[Ratio], anchor: str) -> dict[str, Level]:
    """Time of every commit that measured ratios connect to the anchor, for one cell.

    Weighted least squares of x_b - x_a = log_ratio with weights 1/error², x_anchor = 0 (the Gauss-Markov estimate
    of independent differences; Mandel & Lashof 1974, "The interlaboratory evaluation of testing methods"). Degrees of
    freedom by Welch-Satterthwaite: a level is trusted as far as the errors that make up most of its own.

    Args:
        ratios: of one cell.
        anchor: commit whose level is 0.

    Returns:
        Level by commit; empty where nothing connects to the anchor.
    """
    edges = _pooled(ratios)
    reached = {anchor}
    while True:
        more = {x for r in edges for x in (r.a, r.b) if (r.a in reached) != (r.b in reached)} - reached
        if not more:
            break
        reached |= more
    edges = [r for r in edges if r.a in reached and r.b in reached]
    unknown = sorted(reached - {anchor})
    if not unknown:
        return {}
    column = {commit: i for i, commit in enumerate(unknown)}
    design = np.zeros((len(edges), len(unknown)))
    for row, edge in enumerate(edges):
        for commit, sign in ((edge.b, 1.0), (edge.a, -1.0)):
            if commit in column:
                design[row, column[commit]] += sign / edge.error
    measured = np.array([e.log / e.error for e in edges])
    covariance = np.linalg.inv(design.T @ design)
    gains = covariance @ design.T
    solved = gains @ measured
    variance = np.sum(gains**2, axis=1)
    freedom = variance**2 / (gains**4 @ np.array([1 / e.freedom for e in edges]))
    return {c: Level(float(solved[i]), math.sqrt(variance[i]), float(freedom[i])) for c, i in column.items()}


def time_drift(
    ratios: Sequence[Ratio], anchor: str, head: str, allowed: float, alarm_rate: float = 0.01
) -> tuple[list[Finding], int]:
    """Cells whose time drifted from the anchor to the head by more than ``allowed``, in either direction.

    Args:
        ratios: the ledger.
        anchor: commit to start from, as the ledger names it.
        head: commit to end with.
        allowed: relative change that is not worth a word.
        alarm_rate: family-wise over the cells (Bonferroni; Student's t for sums of trimmed means).

    Returns:
        Findings, largest first, and the number of cells whose head is connected to the anchor.
    """
    by_cell: dict[str, list[Ratio]] = {}
    for r in ratios:
        by_cell.setdefault(r.cell, []).append(r)
    ends = {cell: found[head] for cell, own in by_cell.items() if head in (found := levels(own, anchor))}
    if not ends:
        return [], 0
    bar = math.log1p(allowed)
    found_all = []
    for cell, level in ends.items():
        reach = float(special.stdtrit(level.freedom, 1 - alarm_rate / (2 * len(ends)))) * level.error
        low, high = level.log - reach, level.log + reach
        if low > bar or high < -bar:
            kind = "slower" if low > bar else "faster"
            text = (
                f"{kind} by {math.expm1(level.log):+.1%} since {anchor[:10]} "
                f"(interval {math.expm1(low):+.1%} to {math.expm1(high):+.1%}), over {len(by_cell[cell])} comparisons"
            )
            found_all.append((abs(level.log), Finding(kind, cell, "time", text, 1.0, math.exp(level.log))))
    return [f for _, f in sorted(found_all, key=lambda x: -x[0])], len(ends)
