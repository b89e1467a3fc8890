"""Verdicts as the page shows them: every finding with links to the evidence of its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hograd_bench import claims
from hograd_bench.laws.polynomial import SYMBOLS
from hograd_bench.report import text

MOST_LINKS = 40
MOST_CASES = 60
"""Cases of a part on the page at most; the command line tells all."""
GIST = 190
MARKS = {
    claims.HOLDS: ("holds", "✓", "Holds"), claims.REFUTED: ("refuted", "✗", "Refuted"),
    claims.PARTIAL: ("partial", "◐", "Holds in part"), claims.INSUFFICIENT: ("open", "?", "Not decided"),
}  # fmt: skip
_DEGREES: dict[float, str] = {0: "", 1: "Linear", 2: "Quadratic", 3: "Cubic"}
_POWERS: dict[float, str] = {1: "", 2: "²", 3: "³", 4: "⁴"}
_ORDER = (claims.REFUTED, claims.PARTIAL, claims.HOLDS, claims.INSUFFICIENT)


def mark(outcome: str) -> tuple[str, str, str]:
    """(class, sign, words) of an outcome."""
    return MARKS.get(outcome, ("open", "?", outcome))


Anchors = Mapping[tuple[str, str], str]
"""(Machine, cell) -> anchor, from :func:`hograd_bench.report.cells.anchors_of`."""


def views(verdicts: Sequence[claims.Verdict], anchors: Anchors) -> list[dict[str, Any]]:
    """The verdicts in their order, with anchors in place of cells."""
    return [_view(v, anchors) for v in verdicts]


def tally(verdicts: Sequence[claims.Verdict]) -> list[tuple[str, str, str, int]]:
    """(class, sign, words, count) of each outcome that occurs."""
    counts = {o: sum(v.outcome == o for v in verdicts) for o in _ORDER}
    return [(*mark(o), n) for o, n in counts.items() if n]


def _view(verdict: claims.Verdict, anchors: Anchors) -> dict[str, Any]:
    parts = [_part(p, anchors) for p in verdict.parts]
    deciding = [f for p in parts if p["role"] == "claim" for f in p["findings"]]
    example = next((f for f in deciding if f["outcome"] == verdict.outcome and f["law"]), None)
    words = text.in_words(verdict.sentence.partition(". ")[2] or verdict.sentence)
    worst = text.in_words(verdict.worst)
    holder = next((f for f in deciding if worst == f"{f['name']}: {f['worst']}"), None)
    by_part = [(p["says"].rstrip("."), p["mark"][2].lower()) for p in parts if p["role"] == "claim"]
    split = verdict.outcome == claims.PARTIAL and len(by_part) > 1
    return {
        "id": verdict.claim.id,
        "title": verdict.claim.title,
        "statement": verdict.claim.statement,
        "source": verdict.claim.source,
        "mark": mark(verdict.outcome),
        "sentence": words,
        "law": example,
        "worst": worst,
        "worst_link": holder["worst_link"] if holder else "",
        "gist": " ".join(f"{says}: {outcome}." for says, outcome in by_part)
        if split
        else text.gist(example["gist"] if example else words, GIST),
        "worst_gist": "" if example and example["growth"] else text.gist(_worst(holder, deciding), GIST),
        "cells": verdict.cells,
        "parts": parts,
    }


def _worst(holder: Mapping[str, Any] | None, deciding: Sequence[Mapping[str, Any]]) -> str:
    """The worst case where it tells something: of a growth that is its law, for any figure grows with its size."""
    if holder is None or not holder["grows"]:
        return f"{holder['case']}{holder['worst']}" if holder else ""
    return next((f["gist"] for f in deciding if f["growth"] and f["outcome"] == claims.REFUTED), "")


def _part(part: claims.PartVerdict, anchors: Anchors) -> dict[str, Any]:
    # Of too many cases those that decide are shown before those that do not, each kind in its order.
    chosen = sorted(part.findings, key=lambda f: f.outcome == claims.INSUFFICIENT)[:MOST_CASES]
    if len(chosen) == len(part.findings):
        chosen = list(part.findings)
    return {
        "id": part.part.id,
        "says": part.part.says,
        "role": part.part.role,
        "refuted_by": part.part.refuted_by,
        "mark": mark(part.outcome),
        "sentence": text.in_words(part.sentence),
        "findings": [_finding(part.part, f, anchors) for f in chosen],
        "left": len(part.findings) - len(chosen),
    }


def _growth(part: claims.Part, finding: claims.Finding) -> str:
    """An exact growth in words, and against which: ``Linear in T, not T²: ``; "" where there is none."""
    variable, degree = part.parameters.get("variable"), finding.value
    if variable is None or degree is None or finding.interval is not None or degree not in _DEGREES:
        return ""
    symbol = SYMBOLS.get(str(variable), str(variable))
    limit = finding.group.get("order") if part.parameters.get("limit") == "order" else part.parameters.get("limit")
    other = f", not {symbol}{_POWERS.get(limit, f'^{limit:g}')}" if finding.outcome == claims.REFUTED and limit else ""
    return f"{_DEGREES[degree]} in {symbol}{other}. " if degree else f"Independent of {symbol}{other}. "


def _finding(part: claims.Part, finding: claims.Finding, anchors: Anchors) -> dict[str, Any]:
    # A group names its machine where several measured the part; where it names none, one did.
    machine = str(finding.group.get("machine", ""))
    links = [(anchors[machine, c], _sizes(c)) for c in finding.cells if (machine, c) in anchors]
    interval = ""
    if finding.interval is not None:
        interval = f"{finding.interval[0]:.3g} to {finding.interval[1]:.3g}"
    elif finding.value is not None:
        interval = "exact"
    name, compared, growth = text.in_words(finding.name), finding.group.get("comparison"), _growth(part, finding)
    # What is compared is named by the sentence: here only where.
    where = name.removeprefix(str(compared)).strip()
    case = f"{name}: " if not compared else f"{where[:1].upper()}{where[1:]}: " if where else ""
    told = text.in_words(finding.reason if compared else finding.law)
    return {
        "name": name,
        "case": case,
        "gist": f"{growth}{case}{told}",
        "grows": part.rule.startswith("growth"),
        "outcome": finding.outcome,
        "mark": mark(finding.outcome),
        "law": text.in_words(finding.law),
        "reason": text.in_words(finding.reason),
        "lost": text.in_words(finding.lost),
        "growth": growth,
        "worst": text.in_words(finding.worst),
        "worst_link": anchors.get((machine, finding.worst_cell), ""),
        "interval": interval,
        "links": links[:MOST_LINKS],
        "others": max(0, len(finding.cells) - MOST_LINKS),
        "unlinked": len(finding.cells) - len(links),
    }


def _sizes(cell: str) -> str:
    """The sizes of a cell's id that are not 1, short: ``n8 k2 T4``."""
    parts = cell.split("/")
    if len(parts) < 5:
        return text.clean(cell, 30)
    short = {"n": "n", "order": "k", "depth": "T", "batch": "B"}
    pairs = (p.partition("=") for p in parts[3].split(","))
    sizes = [f"{short.get(k, k)}{v}" for k, _, v in pairs if v != "1" or k == "n"]
    return text.clean(" ".join([parts[1], *sizes]), 60)
