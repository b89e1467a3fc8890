"""What changed between the exact figures of two runs, and what it means. Pure.

Every exact metric is a whole number, and smaller is better. One that grew fails; one that shrank is reported and asks
to be banked (an unbanked win hides the next loss of the same size); a cell or a metric that is gone, or runs no more,
fails. Drift below a threshold cannot hide: the default tolerance is zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd
from hograd_bench import makeup
from hograd_bench.compare import compare
from hograd_bench.gate.exact.baseline import exact_metrics
from hograd_bench.gate.outcome import Finding, by_weight
from hograd_bench.makeup import Change
from hograd_bench.metrics import Metric
from hograd_bench.schema import CELL_FIELDS, Row

Rows = Mapping[str, Row]
# What is compared was measured here and now, or under one key: the gate has seen to it.
_HERE = {"torch": {"version": "of both"}}


def findings(
    base: Rows,
    head: Rows,
    records: Mapping[str, Metric],
    tolerance: Mapping[str, float] | None = None,
    *,
    stored: bool = True,
) -> list[Finding]:
    """What changed from ``base`` to ``head``.

    Args:
        base: rows by the name under which they are compared.
        head: the same, now.
        records: of the metrics of both.
        tolerance: metric -> relative growth allowed (0.01: one percent); zero for metrics not named.
        stored: whether ``base`` is a committed baseline, to which improvements and new cells can be added.

    Returns:
        Findings, errors first.
    """
    bank, add, gone = (
        ("; bank it: --update", "; add it: --update", "; if it is meant to go: --update") if stored else ("", "", "")
    )
    found = [
        Finding("wrong", name, "result", f"the result is not float64 truth: {row['reason']}")
        for name, row in head.items()
        if row["status"] == "wrong"
    ]
    right = {name: row for name, row in head.items() if row["status"] != "wrong"}
    exact = {name: record for name, record in records.items() if record.exact}
    seen = compare(_frame(base), _frame(right), _HERE, _HERE, exact, deterministic_only=True)
    added = {name: head[name] for name in seen.only_b}
    found += [_missing(name, base[name], added, exact, gone) for name in seen.only_a if name not in head]
    found += [
        Finding("new", name, "", f"was not there before ({row['status']} now){add}") for name, row in added.items()
    ]
    for name, was, now, why in seen.statuses[["cell", "status_a", "status_b", "reason_b"]].itertuples(index=False):
        if now == "ok":
            found.append(Finding("improvement", name, "status", f"was {was}, is ok now{bank}"))
        else:
            found.append(Finding("broken", name, "status", f"was {was}, is {now} now" + (f": {why}" if why else "")))
    for name, metric in seen.differences[["cell", "metric"]].itertuples(index=False):
        allowed = (tolerance or {}).get(metric, 0.0)
        found += _changed(metric, name, base[name], head[name], exact, allowed, bank)
    return by_weight(found)


def compared(base: Rows, head: Rows, records: Mapping[str, Metric]) -> int:
    """How many cells run on both sides and have an exact metric in common."""
    return sum(
        base[name]["status"] == row["status"] == "ok"
        and not exact_metrics(base[name], records).keys().isdisjoint(exact_metrics(row, records))
        for name, row in head.items()
        if name in base
    )


def _frame(rows: Rows) -> pd.DataFrame:
    """Rows as ``store.load`` has them, as far as a comparison reads them."""
    fields = [*CELL_FIELDS, "status", "reason", "missing"]
    made = [{"cell": name, **{f: row[f] for f in fields}, **row["metrics"]} for name, row in rows.items()]
    frame: pd.DataFrame = pd.DataFrame(made, columns=None if made else ["cell", *fields])
    return frame


def _changed(
    metric: str, name: str, before: Row, after: Row, exact: Mapping[str, Metric], allowed: float, bank: str
) -> Iterable[Finding]:
    old, new = (exact_metrics(row, exact).get(metric) for row in (before, after))
    if new is None:
        if old is not None:
            yield Finding("missing", name, metric, f"{metric} is measured no more (was {old:,})", old)
    elif old is None:
        yield Finding("new", name, metric, f"{metric} is new on this cell ({new:,})", None, new)
    elif new > old * (1 + allowed):
        yield Finding("growth", name, metric, f"{metric} {_step(old, new)}{blame(metric, before, after)}", old, new)
    elif new < old:
        text = f"{metric} {_step(old, new)}{blame(metric, before, after)}{bank}"
        yield Finding("improvement", name, metric, text, old, new)
    # within the tolerance: neither; --since adds such steps up


def _step(old: int, new: int) -> str:
    relative = f", {(new - old) / old:+.2%}" if old else ""
    return f"{old:,} -> {new:,} ({new - old:+,}{relative})"


def blame(metric: str, before: Row, after: Row) -> str:
    """Which ops, and for bytes which phases, account for a change; empty where nothing was recorded.

    Bytes are explained by what was alive at the peak, everything else by the ops dispatched.
    """
    old, new = before["details"], after["details"]
    tables = [("dispatched", ".", makeup.dispatched(old), makeup.dispatched(new))]
    if "bytes" in metric:
        tables.insert(0, ("at the peak", "/", makeup.at_peak(old, nodes=False), makeup.at_peak(new, nodes=False)))
    for label, joint, *pair in tables:
        moved = [f"{joint.join(path)} {step:+,}" for path, step in makeup.steps(*pair).items()]
        if moved:
            more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
            return f"; {label}: {', '.join(moved[:4])}{more}"
    return ""


def made_of(found: Iterable[Finding], base: Rows, head: Rows) -> list[Change]:
    """What the figures that grew or shrank are made of on both sides, cell by cell in the order of the findings."""
    cells = dict.fromkeys(f.cell for f in found if f.kind in ("growth", "improvement") and f.metric)
    both = [cell for cell in cells if cell in base and cell in head]
    return [c for cell in both for c in makeup.changes(cell, base[cell]["details"], head[cell]["details"])]


def _missing(name: str, before: Row, added: Rows, exact: Mapping[str, Metric], gone: str) -> Finding:
    figures = exact_metrics(before, exact)
    twin = next((n for n, row in added.items() if figures and exact_metrics(row, exact) == figures), None)
    hint = f"; renamed to {twin}?" if twin else ""
    return Finding("missing", name, "", f"was there before, is not measured now{hint}{gone}")


def gone(before: Iterable[str], now: Iterable[str]) -> list[Finding]:
    """Methods ("operator/method") that only the base has: no cell of the head speaks of them."""
    old, new = set(before), set(now)
    found = []
    for name in sorted(old - new):
        fresh = sorted(n for n in new - old if n.startswith(name.partition("/")[0] + "/"))
        hint = f"; renamed to {fresh[0]}?" if fresh else ""
        found.append(Finding("missing", name, "", f"the method was there before, is gone now{hint}"))
    return found
