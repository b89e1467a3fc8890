"""Claims, findings and verdicts: the records that everything in this room passes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HOLDS = "holds"
REFUTED = "refuted"
PARTIAL = "holds only for"
INSUFFICIENT = "insufficient data"
ROLES = ("claim", "refined")


@dataclass(frozen=True)
class Part:
    """One precise statement of a claim, with the rule that decides it.

    Attributes:
        id: "C2a".
        says: the statement, in a sentence.
        rule: name of the rule that decides it.
        metric: the metric that it is about.
        cells: tables of the cells that it needs, as plan.Sweep reads them.
        refuted_by: what would refute it, in words.
        role: "claim" where the claim's verdict hangs on it; "refined" for a sharper or a weaker reading.
        parameters: what the rule reads.
    """

    id: str
    says: str
    rule: str
    metric: str
    cells: tuple[Mapping[str, Any], ...]
    refuted_by: str
    role: str = "claim"
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A statement, where it is from, and the parts that it comes down to."""

    id: str
    title: str
    statement: str
    source: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Finding:
    """What the data say about one part for one group (a method on a problem, say).

    Attributes:
        part: id of the part.
        group: column -> value, what the rows have in common.
        outcome: HOLDS, REFUTED, PARTIAL or INSUFFICIENT.
        reason: why, in a sentence with the figures.
        law: the law or comparison it rests on, as text.
        interval: of the deciding number, or None for an exact one.
        value: the deciding number (a degree, an exponent, a base, a ratio).
        cells: ids of the cells that it rests on.
        worst: the counter-example or the worst case, as text.
        worst_cell: id of the cell that the worst case was measured on, or "".
        excess: how far the worst case lies beyond what is claimed; the worst of a part has most.
        lost: the alternative that lost and why.
        points: (x, measured) of the deciding series; x may be several sizes as text.
    """

    part: str
    group: Mapping[str, Any]
    outcome: str
    reason: str
    law: str = ""
    interval: tuple[float, float] | None = None
    value: float | None = None
    cells: tuple[str, ...] = ()
    worst: str = ""
    lost: str = ""
    points: tuple[tuple[str, float], ...] = ()
    worst_cell: str = ""
    excess: float = 0.0

    @property
    def name(self) -> str:
        """The group in words: ``double_backward on sin_chain``."""
        words = str(self.group.get("method") or self.group.get("comparison") or self.group.get("operator", "all"))
        if self.group.get("problem"):
            words += f" on {self.group['problem']}"
        rest = {k: v for k, v in self.group.items() if k not in ("operator", "method", "problem", "comparison")}
        shown = ", ".join(f"{k} {v}" for k, v in rest.items())
        return f"{words} ({shown})" if shown else words

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "part": self.part,
            "group": {str(k): plain(v) for k, v in self.group.items()},
            "name": self.name,
            "outcome": self.outcome,
            "reason": self.reason,
            "law": self.law,
            "value": plain(self.value),
            "interval": None if self.interval is None else [plain(v) for v in self.interval],
            "cells": list(self.cells),
            "worst": self.worst,
            "worst_cell": self.worst_cell,
            "lost": self.lost,
            "points": [[x, plain(y)] for x, y in self.points],
        }


@dataclass(frozen=True)
class PartVerdict:
    """A part over all groups: its outcome, a sentence from the data, and the findings."""

    part: Part
    outcome: str
    sentence: str
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "id": self.part.id,
            "says": self.part.says,
            "role": self.part.role,
            "rule": self.part.rule,
            "metric": self.part.metric,
            "refuted_by": self.part.refuted_by,
            "outcome": self.outcome,
            "sentence": self.sentence,
            "findings": [f.as_dict() for f in self.findings],
        }


@dataclass(frozen=True)
class Verdict:
    """What the data say about a claim.

    Attributes:
        claim: the claim.
        outcome: HOLDS, REFUTED, PARTIAL or INSUFFICIENT, from the parts whose role is "claim".
        sentence: the verdict in plain words, generated from the findings.
        parts: the verdict of every part.
        worst: the counter-example of a refuted part, or the worst case of one that holds.
        cells: number of different cells that the findings rest on.
    """

    claim: Claim
    outcome: str
    sentence: str
    parts: tuple[PartVerdict, ...]
    worst: str
    cells: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: everything but the cells' specification."""
        return {
            "id": self.claim.id,
            "title": self.claim.title,
            "statement": self.claim.statement,
            "source": self.claim.source,
            "outcome": self.outcome,
            "sentence": self.sentence,
            "worst": self.worst,
            "cells": self.cells,
            "parts": [p.as_dict() for p in self.parts],
        }


def plain(value: Any) -> Any:
    """A value that json writes without surprises: NumPy scalars unwrapped, infinities and NaN to None."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (int, float, str, bool)) or value is None else str(value)
