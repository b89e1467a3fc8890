"""Frame -> verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pandas as pd

from hograd_bench import facts
from hograd_bench.claims._load import load
from hograd_bench.claims._model import INSUFFICIENT, Claim, Finding, Part, PartVerdict, Verdict
from hograd_bench.claims._rule import Data
from hograd_bench.claims._rules import RULES
from hograd_bench.claims._series import Operations, cell_ids, latest, narrowed, operations_of, rows_of
from hograd_bench.claims._verdict_text import claim_outcome, claim_sentence, outcome_of, part_sentence, worst_of
from hograd_bench.claims._verdict_text import explain as _explain

COLUMNS = ("operator", "method", "problem", "n", "order", "depth", "batch", "dtype", "preparation", "status")


def adjudicate(
    frame: pd.DataFrame, claims: Iterable[Claim] | None = None, *, operations: Operations = operations_of
) -> list[Verdict]:
    """Judge claims by measured rows.

    Rows of different devices, thread counts or machines are judged as cases of their own and never mixed.
    Several runs of a machine are pooled for times; of a counted metric the latest value of a cell counts.

    Args:
        frame: rows as store.load gives them; not changed.
        claims: which; None: all of claims.toml.
        operations: operations of f counted by hand, by (problem, n, depth, batch).

    Returns:
        One verdict a claim, in order.

    Raises:
        ValueError: the frame lacks a column that every row has.
    """
    chosen = list(load() if claims is None else claims)
    if frame.empty and not len(frame.columns):
        frame = pd.DataFrame(columns=list(COLUMNS))
    absent = [c for c in COLUMNS if c not in frame.columns]
    if absent:
        raise ValueError(f"frame: no column {absent[0]!r}, expected {', '.join(COLUMNS)}")
    ordered = latest(facts.without_peers(frame))
    return [_judge(claim, ordered, operations) for claim in chosen]


def _judge(claim: Claim, frame: pd.DataFrame, operations: Operations) -> Verdict:
    parts = tuple(_judge_part(part, frame, operations) for part in claim.parts)
    outcome = claim_outcome(parts)
    cells = {cell for p in parts for f in p.findings for cell in f.cells}
    return Verdict(claim, outcome, claim_sentence(claim, outcome, parts), parts, worst_of(outcome, parts), len(cells))


def _judge_part(part: Part, frame: pd.DataFrame, operations: Operations) -> PartVerdict:
    frame = narrowed(part, frame)
    rows = rows_of(part, frame)
    findings = list(RULES[part.rule].decide(part, Data(rows, frame, operations))) if len(rows) else []
    if not findings and len(rows):
        seen = ", ".join(f"{count} {status}" for status, count in Counter(rows["status"]).most_common())
        findings = [
            Finding(part.id, {}, INSUFFICIENT, f"none of its cells can be judged ({seen})", cells=cell_ids(rows))
        ]
    outcome = outcome_of(findings)
    return PartVerdict(part, outcome, part_sentence(outcome, findings), tuple(findings))


def explain(verdict: Verdict) -> str:
    """The whole reasoning as text: per part and case the points, the law, and the alternative that lost."""
    head = [f"{verdict.claim.id} {verdict.claim.title}: {verdict.outcome}", f"claim: {verdict.claim.statement}"]
    head += [f"source: {verdict.claim.source}", verdict.sentence]
    if verdict.worst:
        head.append(f"worst case: {verdict.worst}")
    return "\n".join(head) + "\n\n" + _explain(verdict.parts)
