"""What a gate run says: findings, their weight, and the exit code."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hograd_bench.makeup import Change


class Exit(enum.IntEnum):
    """Exit codes of ``hograd gate``; see docs/gate.md."""

    PASS = 0
    REGRESSION = 1
    USAGE = 2
    INCONCLUSIVE = 3
    NOT_COMPARABLE = 4


class NotComparableError(RuntimeError):
    """A side cannot be had; the message says what to do instead (exit code 4)."""


class UsageError(ValueError):
    """What was asked for does not exist (exit code 2)."""


# kind -> (level, exit code it asks for)
KINDS: Mapping[str, tuple[str, Exit]] = {
    "growth": ("error", Exit.REGRESSION),
    "slower": ("error", Exit.REGRESSION),
    "wrong": ("error", Exit.REGRESSION),
    "missing": ("error", Exit.REGRESSION),
    "broken": ("error", Exit.REGRESSION),
    "inconclusive": ("warning", Exit.INCONCLUSIVE),
    "not comparable": ("error", Exit.NOT_COMPARABLE),
    "usage": ("error", Exit.USAGE),
    "improvement": ("warning", Exit.PASS),
    "unsteady": ("warning", Exit.PASS),
    "faster": ("notice", Exit.PASS),
    "new": ("notice", Exit.PASS),
    "skipped": ("notice", Exit.PASS),
}

# Which code wins when findings ask for several: a certain regression is never hidden by what could not be had.
_RANK = (Exit.PASS, Exit.INCONCLUSIVE, Exit.NOT_COMPARABLE, Exit.USAGE, Exit.REGRESSION)


@dataclass(frozen=True)
class Finding:
    """One thing that a person should read.

    Attributes:
        kind: a key of :data:`KINDS`.
        cell: the cell's id, or "" for the run as a whole.
        metric: the metric, or "".
        text: one sentence: what changed, by how much, in which op and phase, what to do.
        before, after: the values, where there are two.
    """

    kind: str
    cell: str
    metric: str
    text: str
    before: float | None = None
    after: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: got {self.kind!r}, expected one of {', '.join(KINDS)}")

    @property
    def level(self) -> str:
        """``error``, ``warning`` or ``notice``."""
        return KINDS[self.kind][0]


@dataclass
class Outcome:
    """A whole gate run.

    Attributes:
        title: what was compared with what.
        findings: everything worth reading, in order of weight.
        timing: cell -> verdict as a dict (see ``policy.Verdict``), where time was compared.
        counted: number of cells whose deterministic metrics were compared.
        sides: what side A (base) and side B (head) are.
        seconds: wall time of the run.
        pairs: process pairs used by the timing gate.
        changes: what the exact figures that grew or shrank were made of, and are; the page draws it.
    """

    title: str
    findings: list[Finding] = field(default_factory=list)
    timing: dict[str, dict[str, Any]] = field(default_factory=dict)
    counted: int = 0
    sides: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    pairs: int = 0
    changes: list[Change] = field(default_factory=list)

    @property
    def exit(self) -> Exit:
        """The exit code: the heaviest that any finding asks for; NOT_COMPARABLE where nothing was compared."""
        codes = [KINDS[f.kind][1] for f in self.findings]
        if not self.timing and not self.counted:
            codes.append(Exit.NOT_COMPARABLE)
        return max(codes, key=_RANK.index, default=Exit.PASS)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form; ``findings`` carry their level."""
        return {
            "title": self.title,
            "exit": int(self.exit),
            "outcome": self.exit.name.lower(),
            "seconds": round(self.seconds, 3),
            "pairs": self.pairs,
            "cells_counted": self.counted,
            "cells_timed": len(self.timing),
            "sides": self.sides,
            "findings": [{**asdict(f), "level": f.level} for f in self.findings],
            "timing": self.timing,
        }


def by_weight(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notices; the order within each is kept."""
    order = {"error": 0, "warning": 1, "notice": 2}
    return sorted(findings, key=lambda f: order[f.level])
