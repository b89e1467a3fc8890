"""An outcome as a page: findings, what grew drawn as differential flame graphs, times. In the style of the report."""

from __future__ import annotations

import math
from typing import Any

from hograd_bench.gate.outcome import Exit, Outcome
from hograd_bench.gate.output import formats
from hograd_bench.report import flame
from hograd_bench.report import page as report_page

_MARKS = {
    Exit.PASS: ("holds", "✓"), Exit.REGRESSION: ("refuted", "✗"), Exit.USAGE: ("refuted", "✗"),
    Exit.INCONCLUSIVE: ("partial", "?"), Exit.NOT_COMPARABLE: ("open", "·"),
}  # fmt: skip
_COLOURS = {"error": "refuted", "warning": "partial", "notice": "open"}


def html(outcome: Outcome) -> str:
    """One self-contained file."""
    word = formats.HEADLINES[outcome.exit]
    return report_page.template("gate.html.j2").render(
        **report_page.assets(),
        title=f"hograd gate: {word}",
        mark=(*_MARKS[outcome.exit], word),
        headline=formats.headline(outcome),
        findings=[(f, _COLOURS[f.level]) for f in outcome.findings[: formats.LISTED]],
        left=max(0, len(outcome.findings) - formats.LISTED),
        section=flame.section(outcome.changes),
        timing=[_timed(cell, v) for cell, v in sorted(outcome.timing.items(), key=lambda timed: -_size(timed[1]))],
        sides=[(letter, [(k, v) for k, v in side.items() if v]) for letter, side in outcome.sides.items()],
    )


def _timed(cell: str, verdict: dict[str, Any]) -> dict[str, Any]:
    interval = f"{formats.percent(verdict['low'])} to {formats.percent(verdict['high'])}"
    return {**verdict, "cell": cell, "interval": interval, "change": formats.percent(verdict["ratio"])}


def _size(verdict: dict[str, Any]) -> float:
    ratio = verdict["ratio"]
    return abs(math.log(ratio)) if ratio and ratio > 0 else 0.0
