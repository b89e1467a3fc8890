"""Findings -> outcomes and plain sentences. Every word of a verdict is made here, from data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hograd_bench import units
from hograd_bench.claims._model import HOLDS, INSUFFICIENT, PARTIAL, REFUTED, Claim, Finding, PartVerdict

MOST_NAMED = 5


def outcome_of(findings: Sequence[Finding]) -> str:
    """The outcome over groups: all hold, all refuted, some; insufficient where fewer than half decide."""
    decided = [f.outcome for f in findings if f.outcome != INSUFFICIENT]
    if not decided or 2 * len(decided) < len(findings):
        return INSUFFICIENT
    if all(o == HOLDS for o in decided):
        return HOLDS
    return REFUTED if all(o == REFUTED for o in decided) else PARTIAL


def part_sentence(outcome: str, findings: Sequence[Finding]) -> str:
    """One or two sentences on a part: for how many groups, for which, and the figure that shows it."""
    if not findings:
        return "None of the cells that it is judged by was measured."
    by = {o: [f for f in findings if f.outcome == o] for o in (HOLDS, REFUTED, PARTIAL, INSUFFICIENT)}
    total = len(findings)
    open_cases = (
        f" {_count(by[INSUFFICIENT], total)} undecided." if by[INSUFFICIENT] and outcome != INSUFFICIENT else ""
    )
    if outcome == HOLDS:
        return f"Holds in {_count(by[HOLDS], total)}. {_evidence(by[HOLDS])}.{open_cases}"
    if outcome == REFUTED:
        return f"Refuted in {_count(by[REFUTED], total)}. {_evidence(by[REFUTED])}.{open_cases}"
    if outcome == PARTIAL:
        parts = []
        if by[HOLDS]:
            named = where(by[HOLDS], findings)
            parts.append(f"Holds only for {named}." if named else f"Holds in {_count(by[HOLDS], total)}.")
        if by[PARTIAL]:
            parts.append(f"In part in {_count(by[PARTIAL], total)}. {_evidence(by[PARTIAL])}.")
        if by[REFUTED]:
            named = where(by[REFUTED], findings)
            told = f"for {named}" if named else f"in {_count(by[REFUTED], total)}"
            parts.append(f"Refuted {told}. {_evidence(by[REFUTED])}.")
        return " ".join(parts) + open_cases
    return f"Insufficient data in {_count(by[INSUFFICIENT], total)}. {_evidence(by[INSUFFICIENT])}."


def _count(chosen: Sequence[Finding], total: int) -> str:
    if total == 1:
        return "the one case" if chosen else "0 of 1 case"
    return f"all {total} cases" if len(chosen) == total else f"{len(chosen)} of {total} cases"


def _evidence(findings: Sequence[Finding]) -> str:
    """The first finding's figure, as the example that the sentence rests on."""
    example = findings[0]
    return f"{'E.g. ' if len(findings) > 1 else ''}{example.name}: {example.reason}"


def where(chosen: Sequence[Finding], findings: Sequence[Finding]) -> str:
    """The cases by the one column that separates them from the others, else by name, or "" where they are many."""
    rest = [f for f in findings if f not in chosen and f.outcome != INSUFFICIENT]
    for column in ("method", "problem", "comparison", "order", "device", "operator"):
        ours = {str(f.group.get(column)) for f in chosen if column in f.group}
        theirs = {str(f.group.get(column)) for f in rest if column in f.group}
        if ours and theirs and not ours & theirs:
            return f"{column}{'s' if len(ours) > 1 else ''} {_list(sorted(ours))}"
    return _list([f.name for f in chosen]) if len(chosen) <= MOST_NAMED else ""


def _list(names: Iterable[str]) -> str:
    ordered = list(dict.fromkeys(names))
    if len(ordered) > MOST_NAMED:
        return ", ".join(ordered[:MOST_NAMED]) + f" and {len(ordered) - MOST_NAMED} more"
    return ", ".join(ordered[:-1]) + (" and " if len(ordered) > 1 else "") + ordered[-1]


def claim_outcome(parts: Sequence[PartVerdict]) -> str:
    """From the parts on which the claim hangs and that the data decide: all hold, all refuted, or some."""
    decided = [p.outcome for p in parts if p.part.role == "claim" and p.outcome != INSUFFICIENT]
    if not decided:
        return INSUFFICIENT
    if all(o == HOLDS for o in decided):
        return HOLDS
    return REFUTED if all(o == REFUTED for o in decided) else PARTIAL


def claim_sentence(claim: Claim, outcome: str, parts: Sequence[PartVerdict]) -> str:
    """The verdict in plain words: the outcome, then each part's statement and sentence, those first that decide it."""
    head = {
        HOLDS: "Holds",
        REFUTED: "Refuted",
        PARTIAL: "Holds only in part",
        INSUFFICIENT: "Not decided for lack of data",
    }[outcome]
    ordered = sorted((p for p in parts if p.part.role == "claim"), key=lambda p: p.outcome == INSUFFICIENT)
    said = [f"{p.part.says.rstrip('.')}: {p.sentence}" for p in ordered]
    return f"{head}. {' '.join(said)}"


def worst_of(outcome: str, parts: Sequence[PartVerdict]) -> str:
    """The counter-example of what is refuted, else the worst case of what holds."""
    for wanted in (REFUTED, PARTIAL, HOLDS) if outcome != HOLDS else (HOLDS,):
        for part in (p for p in parts if p.part.role == "claim"):
            found = [f for f in part.findings if f.outcome == wanted and f.worst]
            if found:
                worst = max(found, key=lambda f: f.excess)
                return f"{worst.name}: {worst.worst}"
    return ""


def explain(parts: Sequence[PartVerdict]) -> str:
    """Points, law, and the alternative that lost and why, finding by finding."""
    lines: list[str] = []
    for p in parts:
        lines += [f"{p.part.id} [{p.outcome}] {p.part.says}", f"  {p.sentence}", f"  refuted by: {p.part.refuted_by}"]
        for f in p.findings:
            lines.append(f"  - {f.name}: {f.outcome}: {f.reason}")
            if f.points:
                lines.append("      points: " + ", ".join(f"{x}: {units.whole(y)}" for x, y in f.points))
            lines += [f"      {label}: {text}" for label, text in _details(f) if text]
    return "\n".join(lines)


def _details(finding: Finding) -> list[tuple[str, str]]:
    return [
        ("law", finding.law),
        ("worst", finding.worst),
        ("against", finding.lost),
        ("cells", f"{len(finding.cells)}, first {finding.cells[0]}" if finding.cells else ""),
    ]
