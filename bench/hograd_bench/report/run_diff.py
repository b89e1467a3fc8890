"""What is new: of each machine, its latest run against the one before it that measured most of the same cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hograd_bench import claims, store, units
from hograd_bench.compare import Comparison, compare
from hograd_bench.environment import Environment
from hograd_bench.report import text
from hograd_bench.report.data import ReportData

MOST = 12


@dataclass(frozen=True)
class RunDiff:
    """The latest run of a machine against an earlier one.

    Attributes:
        machine, before, after: which runs.
        comparison: of the two.
        facts: sentences, the weightiest first.
        changes: the deterministic metrics that changed most: (cell's anchor, cell, metric, before, after, ratio).
        statuses: cells whose status changed: (anchor, cell, before, after, reason).
    """

    machine: str
    before: str
    after: str
    comparison: Comparison
    facts: tuple[str, ...]
    changes: tuple[tuple[str, str, str, str, str, str], ...]
    statuses: tuple[tuple[str, str, str, str, str], ...]


def run_diffs(data: ReportData, anchors: Mapping[tuple[str, str], str]) -> list[RunDiff]:
    """One entry a machine of whose latest run an earlier one shares cells; runs of other presets tell nothing of it."""
    found = []
    for machine, rows in data.everything.groupby("machine", observed=True, sort=True):
        cells = {str(run): set(of["cell"]) for run, of in rows.groupby("run", observed=True, sort=True)}
        *earlier, latest = cells
        shared = {run: len(cells[latest] & cells[run]) for run in reversed(earlier)}
        before = max(shared, key=lambda run: shared[run], default="")  # of equals the later
        if shared.get(before):
            found.append(_between(data, str(machine), rows, before, latest, anchors))
    return found


def earlier(rows: pd.DataFrame) -> pd.DataFrame:
    """The newest rows as they were before the latest run of each machine."""
    latest = rows.groupby("machine", observed=True)["run"].transform("max")
    return store.newest(rows, (rows["run"] != latest).to_numpy(dtype=bool))


def unfinished(
    rows: pd.DataFrame, environments: Mapping[tuple[str, str], Environment], outdated: Mapping[tuple[str, str], int]
) -> list[str]:
    """A sentence for each machine whose latest run has fewer rows than it was begun for, those left out included."""
    said = []
    latest: dict[str, str] = dict(sorted(environments))
    for machine, run in latest.items():
        plan = environments[machine, run].get("plan")
        wanted = plan.get("cells") if isinstance(plan, Mapping) else None
        have = int(((rows["machine"] == machine) & (rows["run"] == run)).sum()) + outdated.get((machine, run), 0)
        if isinstance(wanted, int) and have < wanted:
            said.append(
                f"{machine}/{run}: {have:,} of {wanted:,} planned cells are there; `hograd run --resume` goes on"
            )
    return said


def verdict_changes(
    verdicts: Sequence[claims.Verdict], earlier: Sequence[claims.Verdict]
) -> list[tuple[str, str, str, str]]:
    """Claims whose verdict differs from what was said before the latest runs: (id, title, was, is)."""
    before = {v.claim.id: v.outcome for v in earlier}
    return [
        (v.claim.id, v.claim.title, before[v.claim.id], v.outcome)
        for v in verdicts
        if before.get(v.claim.id, v.outcome) != v.outcome
    ]


def _between(
    data: ReportData, machine: str, rows: pd.DataFrame, before: str, after: str, anchors: Mapping[tuple[str, str], str]
) -> RunDiff:
    was, now = (data.environments.get((machine, run), {}) for run in (before, after))
    mine = {cell: anchor for (on, cell), anchor in anchors.items() if on == machine}
    old, new = (rows[rows["run"] == run] for run in (before, after))
    result = compare(old, new, was, now, data.records, deterministic_only=True)
    return RunDiff(
        machine, before, after, result, tuple(_facts(result, (was, now), old, new)),
        tuple(changes(result, mine)), tuple(statuses(result, mine)),
    )  # fmt: skip


def _facts(result: Comparison, environments: Sequence[Environment], old: pd.DataFrame, new: pd.DataFrame) -> list[str]:
    facts = []
    for section, key, name in (
        ("torch", "version", "torch"),
        ("source", "commit", "commit"),
        ("python", "version", "Python"),
    ):
        was, now = (text.clean(_of(e, section, key), 40) for e in environments)
        if was != now:
            facts.append(f"{name}: {was} → {now}")
    facts.append(_compared(result))
    if len(result.statuses):
        facts.append(f"{len(result.statuses):,} cells changed their status")
    for column, what in (("operator", "operators"), ("method", "methods"), ("problem", "problems")):
        added = sorted(set(new[column]) - set(old[column]))
        if added:
            names = ", ".join(text.clean(a, 40) for a in added[:6])
            facts.append(f"new {what}: {names}" + (f" and {len(added) - 6} more" if len(added) > 6 else ""))
    for only, what in ((result.only_b, "measured for the first time"), (result.only_a, "not measured this time")):
        if only:
            facts.append(f"{len(only):,} cells {what}")
    for device, rule in sorted(result.comparability.items()):
        if rule.level != "full":
            facts.append(f"cells on {device}, comparable: {rule.level} ({'; '.join(rule.reasons[:3])})")
    return facts


def _compared(result: Comparison) -> str:
    cells = f"{result.cells:,} cell{'s' if result.cells > 1 else ''}"
    if not result.values:
        return f"{cells} measured by both runs, but no deterministic value of them"
    outcome = f"{len(result.differences):,} changed" if len(result.differences) else "all the same"
    return f"{result.values:,} deterministic values of {cells} compared: {outcome}"


def changes(
    result: Comparison, anchors: Mapping[str, str], most: int = MOST
) -> list[tuple[str, str, str, str, str, str]]:
    """The deterministic differences, the largest ratio first."""
    frame = result.differences
    if frame.empty:
        return []
    size = pd.to_numeric(frame["ratio"], errors="coerce").map(lambda r: max(r, 1 / r) if r > 0 else float("inf"))
    top = frame.loc[size.sort_values(ascending=False, kind="stable").index[:most]]
    return [
        (anchors.get(r["cell"], ""), r["cell"], r["metric"], _value(r["metric"], r["a"]), _value(r["metric"], r["b"]),
         units.times(r["ratio"]) if text.is_number(r["ratio"]) else str(r["note"]))
        for r in top.to_dict("records")
    ]  # fmt: skip


def statuses(result: Comparison, anchors: Mapping[str, str], most: int = MOST) -> list[tuple[str, str, str, str, str]]:
    """The cells whose status changed."""
    return [
        (anchors.get(r["cell"], ""), r["cell"], r["status_a"], r["status_b"], r["reason_b"] or r["reason_a"] or "")
        for r in result.statuses.head(most).to_dict("records")
    ]


def _value(metric: str, value: Any) -> str:
    return text.metric(metric, value) if isinstance(value, str) or text.is_number(value) else "missing"


def _of(environment: Environment, section: str, key: str) -> str:
    found = environment.get(section)
    value = found.get(key) if isinstance(found, Mapping) else None
    return "unknown" if value is None else str(value)[:12] if key == "commit" else str(value)
