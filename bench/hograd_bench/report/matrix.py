"""Which method does what on which problem: every combination that is not ok, with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hograd_bench.report import text
from hograd_bench.report.data import ReportData

# The gravest first: a square of the matrix shows the gravest status of its cells.
GRAVITY = ("crashed", "wrong", "failed", "oom", "timeout", "unverified", "unsupported", "skipped", "ok")
SIGNS = {
    "ok": "✓",
    "unsupported": "∅",
    "skipped": "–",
    "wrong": "≠",
    "failed": "!",
    "unverified": "?",
    "oom": "M",
    "timeout": "T",
    "crashed": "✗",
}
MEANINGS = {
    "ok": "measured, and right",
    "unsupported": "PyTorch cannot",
    "skipped": "not attempted",
    "wrong": "disagrees with the truth",
    "failed": "an exception",
    "unverified": "run, but truth is in doubt",
    "oom": "out of memory",
    "timeout": "took too long",
    "crashed": "the process died",
}
EXAMPLES = 6


def matrices(data: ReportData) -> list[dict[str, Any]]:
    """A matrix an operator: methods by problems; only the operators of which some cell is not ok."""
    made = []
    for operator, part in data.rows.groupby("operator", observed=True, sort=True):
        if (part["status"] == "ok").all():
            continue
        problems = sorted(part["problem"].unique())
        squares: dict[tuple[str, str], dict[str, Any]] = {}
        for (method, problem), cells in part.groupby(["method", "problem"], observed=True):
            counts = cells["status"].value_counts()
            gravest = min(counts.index, key=lambda s: GRAVITY.index(s) if s in GRAVITY else -1)
            first = cells[cells["status"] == gravest].iloc[0]
            said = ", ".join(f"{n} {s}" for s, n in counts.items())
            squares[str(method), str(problem)] = {
                "status": gravest, "sign": SIGNS.get(gravest, "?"), "anchor": first["anchor"], "mixed": len(counts) > 1,
                "title": f"{said}. {text.clean(first['reason'] or '', 300)}".strip(),
            }  # fmt: skip
        methods = sorted(part["method"].unique())
        made.append({
            "operator": text.operator_name(str(operator)), "problems": problems,
            "rows": [(m, [squares.get((m, p)) for p in problems]) for m in methods],
            "trouble": int((part["status"] != "ok").sum()),
        })  # fmt: skip
    return made


def legend(data: ReportData) -> list[tuple[str, str, str]]:
    """(sign, status, meaning) of the statuses that occur."""
    present = set(data.rows["status"])
    return [(SIGNS[s], s, MEANINGS[s]) for s in reversed(GRAVITY) if s in present]


def reasons(data: ReportData) -> list[dict[str, Any]]:
    """Every reason once, with how often it holds, for what, and links to cells; the most frequent first."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    rows = data.rows[data.rows["status"] != "ok"]
    for row in rows[["status", "reason", "operator", "method", "problem", "n", "order", "anchor"]].to_dict("records"):
        found.setdefault((row["status"], _gist(row["reason"])), []).append({str(k): v for k, v in row.items()})
    return [
        {
            "status": status, "sign": SIGNS.get(status, "?"), "reason": members[0]["reason"] or "no reason given",
            "count": len(members), "methods": _few(m["method"] for m in members),
            "problems": _few(m["problem"] for m in members),
            "links": [_link(m) for m in members if m["anchor"]][:EXAMPLES],
        }
        for (status, _), members in sorted(found.items(), key=lambda item: -len(item[1]))
    ]  # fmt: skip


def _link(member: dict[str, Any]) -> tuple[str, str]:
    return member["anchor"], f"{member['method']} n{member['n']} k{member['order']}"


def _gist(reason: Any) -> str:
    """A reason without its figures: those that differ in these alone are one."""
    return re.sub(r"\d[\d.,e+-]*", "#", str(reason or ""))[:300]


def _few(names: Iterable[str]) -> str:
    ordered = sorted(set(names))
    return ", ".join(ordered[:5]) + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")
