"""Rows -> what the cell table and the evidence of each cell show."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from hograd_bench import store, units
from hograd_bench.report import text
from hograd_bench.report.data import ReportData

FIELDS = (
    ("operator", "operator"), ("method", "method"), ("problem", "problem"), ("n", "n"), ("order", "k"), ("depth", "T"),
    ("batch", "B"), ("dtype", "dtype"), ("device", "device"), ("threads", "thr."), ("preparation", "prepared"),
    ("machine", "machine"), ("status", "status"),
)  # fmt: skip
TOLD_APART = frozenset({"depth", "batch", "dtype", "device", "threads", "preparation", "machine"})
"""Fields with a column only where rows differ in them."""
FIRST = ("seconds_min", "gradient_equivalents", "peak_bytes", "relative_error")
"""Figures that are shown at once; all others on request."""
SAMPLES = 24
PARTS = 4
LONGEST = 2000
_ORDER = ["bad", "operator", "problem", "order", "n", "depth", "batch", "method"]


def columns(data: ReportData) -> list[tuple[str, str]]:
    """Fields of the table: (name, what it is called)."""
    return [(name, label) for name, label in FIELDS if name not in TOLD_APART or data.rows[name].nunique() > 1]


def figures(data: ReportData) -> list[tuple[str, str, bool]]:
    """Figures of the table that some row has: (metric, what it is called, whether it is shown on request alone)."""
    labels = {
        name: label for name, label in text.labels().items() if name in data.rows and data.rows[name].notna().any()
    }
    return [(name, labels[name], name not in FIRST) for name in sorted(labels, key=lambda name: name not in FIRST)]


def table(data: ReportData) -> Iterator[dict[str, Any]]:
    """Rows of the cell table, as many as have evidence on the page."""
    fields, shown = [name for name, _ in columns(data)], figures(data)
    for row in _records(data):
        yield {
            "anchor": row["anchor"],
            "fields": [(row[name], isinstance(row[name], int)) for name in fields],
            "metrics": [(_shown(row, name), more) for name, _, more in shown],
            "reason": row["reason"] or "",
        }


def evidence(data: ReportData, anchors: Mapping[tuple[str, str], str]) -> Iterator[dict[str, Any]]:
    """Everything that is known of each cell of the table.

    Args:
        data: what the page speaks about.
        anchors: (machine, run) -> anchor of its environment.
    """
    names = store.metric_columns(data.rows.drop(columns="anchor"))
    truths = {name for name, record in data.records.items() if record.unit == "bool"}
    for row in _records(data):
        have = [(n, text.metric(n, bool(row[n]) if n in truths else row[n])) for n in names if _has(row[n])]
        details, trouble = _details(row.get("details"))
        yield {
            "anchor": row["anchor"],
            "title": f"{row['method']}, {row['operator']} of {row['problem']}",
            "sizes": f"{text.sizes(row)}, {row['dtype']}, {row['device']}, {text.threads(row['threads'])}",
            "status": row["status"],
            "reason": row["reason"] or "",
            "command": command(row["cell"], data.environments.get((row["machine"], row["run"]))),
            "metrics": "\n".join(f"{text.clean(name, 60)}\t{value}" for name, value in have),
            "missing": _missing(row["missing"] or {}),
            "run": row["run"],
            "environment": anchors.get((row["machine"], row["run"]), ""),
            "line": row["line"],
            **details,
            "trouble": trouble,
        }


def command(cell: str, environment: Mapping[str, Any] | None = None) -> str:
    """The command that measures exactly this cell again, safe to paste into a shell.

    Args:
        cell: its id.
        environment: of its run, which says what files of one's own declared problems.
    """
    plan = (environment or {}).get("plan")
    files = _list(plan.get("problem_files")) if isinstance(plan, Mapping) else []
    own = "".join(f" --problem-file {shlex.quote(str(file))}" for file in files)
    return f"hograd run{own} --cell {shlex.quote(cell)}"


def _records(data: ReportData) -> list[dict[str, Any]]:
    rows = data.rows[data.rows["anchor"] != ""]
    rows = rows.assign(bad=rows["status"] != "ok").sort_values(_ORDER, kind="stable").drop(columns="bad")
    return [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]


def _has(value: Any) -> bool:
    return isinstance(value, str) or (value is not None and text.is_number(value))


def _shown(row: Mapping[str, Any], name: str) -> dict[str, str]:
    """A metric in the table: formatted, a key to sort by, and why it is missing where it is."""
    value = row.get(name)
    if not _has(value):
        return {"text": "–", "sort": "", "why": (row["missing"] or {}).get(name) or row["reason"] or "not in this row"}
    return {
        "text": text.metric(name, value),
        "sort": f"{value:.6g}" if text.is_number(value) else str(value),
        "why": "",
    }


def _missing(reasons: Mapping[str, str]) -> list[tuple[str, str]]:
    """(reason, the metrics that lack for it)."""
    by: dict[str, list[str]] = {}
    for name, why in reasons.items():
        by.setdefault(str(why), []).append(name)
    return [(why, ", ".join(names)) for why, names in by.items()]


def _details(details: Any) -> tuple[dict[str, Any], str]:
    """What of a row's details is evidence, and what went wrong on reading them."""
    nothing: dict[str, Any] = {"samples": "", "count": 0, "parts": [], "warnings": [], "traceback": ""}
    if details is None:
        return nothing, ""
    try:
        found = dict(details)
    except (OSError, ValueError) as error:
        return nothing, f"details: cannot be read: {error}"
    samples = [s for s in _list(found.get("samples_seconds")) if text.is_number(s)]
    parts = [p for p in _list(found.get("peak_attribution")) if isinstance(p, dict) and text.is_number(p.get("bytes"))]
    return {
        "samples": " ".join(_microseconds(s) for s in samples[:SAMPLES]),
        "count": len(samples),
        "parts": [
            f"{units.binary(p['bytes'])} {p.get('phase')}: {p.get('op')}"
            + (f" within {p['within']}" if p.get("within") not in (None, p.get("op")) else "")
            for p in parts[:PARTS]
        ],
        "warnings": [str(w)[:LONGEST] for w in _list(found.get("warnings"))][:PARTS],
        "traceback": str(found.get("traceback") or "")[-LONGEST:],
    }, ""


def _microseconds(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def anchors_of(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(Machine, cell) -> the anchor of its evidence; under the machine "" the first that measured the cell."""
    known: dict[tuple[str, str], str] = {}
    for machine, cell, anchor in zip(rows["machine"], rows["cell"], rows["anchor"], strict=True):
        if anchor:
            known[machine, cell] = anchor
            known.setdefault(("", cell), anchor)
    return known
