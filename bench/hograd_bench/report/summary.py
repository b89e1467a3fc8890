"""What the page, the Markdown and the terminal all say, computed once; and the Markdown, for CI and pull requests."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hograd_bench import claims, units
from hograd_bench.report import advice, run_diff, text, training
from hograd_bench.report.cells import anchors_of
from hograd_bench.report.data import ReportData
from hograd_bench.report.verdicts import mark

LONGEST = 280
MOST_WARNINGS = 5


@dataclass(frozen=True)
class Summary:
    """The top of the report.

    Attributes:
        verdicts: in the claims' order.
        needs: recommendations.
        run_diffs: the latest run of each machine against the one before.
        changed: claims whose verdict is another than before the latest runs: (id, title, was, is).
    """

    verdicts: Sequence[claims.Verdict]
    needs: Sequence[advice.Need]
    run_diffs: Sequence[run_diff.RunDiff]
    changed: Sequence[tuple[str, str, str, str]]

    @property
    def decided(self) -> tuple[list[claims.Verdict], str]:
        """The verdicts that the data decide, and lines on all others and what measures them, "" for none."""
        decided = [v for v in self.verdicts if v.outcome != claims.INSUFFICIENT]
        waiting = sum(not v.cells for v in self.verdicts if v.outcome == claims.INSUFFICIENT)
        count, unclear = len(self.verdicts), len(self.verdicts) - len(decided) - waiting
        said = []
        if waiting:
            said.append(f"{waiting} of {count} claims wait for cells that were not measured: `hograd claims --run`.")
        if unclear:
            said.append(
                f"{unclear} of {count} claims were measured at too few sizes, or with too much noise, to be decided: "
                "`hograd claims --explain` says which, `hograd claims --run` measures what is missing."
            )
        return decided, "\n".join(said)


def summarise(data: ReportData, verdicts: Sequence[claims.Verdict], earlier: Sequence[claims.Verdict]) -> Summary:
    """Everything at the top of the report.

    Args:
        data: what the report speaks about.
        verdicts: on ``data.rows``.
        earlier: what was said before the latest runs; empty where there was nothing before.
    """
    diffs = run_diff.run_diffs(data, anchors_of(data.rows))
    return Summary(verdicts, advice.advise(data.ok), diffs, run_diff.verdict_changes(verdicts, earlier))


def markdown(data: ReportData, said: Summary, warnings: Sequence[str] = ()) -> str:
    """Statuses, what of the data is missing, recommendations, verdicts, what is new; text from data is escaped."""
    counts = Counter(data.rows["status"]).most_common()
    lines = [
        "# hograd report",
        "",
        "Cells: " + ", ".join(f"{n:,} {escape(s)}" for s, n in counts) + ".",
        "",
    ]
    if warnings:
        more = len(warnings) - MOST_WARNINGS
        lines += ["**Not all of the data is here**:", "", *(f"- {escape(w)}" for w in warnings[:MOST_WARNINGS])]
        lines += [f"- and {more:,} more, listed in the report"] * (more > 0) + [""]
    if said.needs:
        lines += ["## Which method to take", ""]
    for need in (n for n in said.needs if n.main):
        head = ("k", "dimension", *("any memory" if math.isinf(b) else f"≤ {units.binary(b)}" for b in need.budgets))
        body = ((str(s.order), s.band, *(pick_words(p) for p in s.picks)) for s in need.situations)
        lines += [f"**You need {escape(need.words)}**", "", *table(head, body), ""]
    decided, waiting = said.decided
    if said.verdicts:
        lines += ["", "## Verdicts", ""]
    if decided:
        told = ((" ".join(mark(v.outcome)[1:]), f"{v.claim.id} {v.claim.title}", short(v)) for v in decided)
        lines += [*table(("", "claim", "in words"), told), ""]
    lines += [waiting] * bool(waiting)
    steps = training.table(data)
    if steps:
        head = ("training step", "plain", "take", "plain steps", "peak over plain")
        lines += ["", "## In a training step", "", *table(head, steps), ""]
    if said.run_diffs:
        lines += ["## What is new", ""]
        lines += [f"- {escape(i)} {escape(t)}: {mark(a)[2]} → {mark(b)[2]}" for i, t, a, b in said.changed] or [
            "No verdict changed."
        ]
        lines += [""]
    for n in said.run_diffs:
        lines += [f"**{escape(n.machine)}**: run {escape(n.after)} against {escape(n.before)}", ""]
        lines += [f"- {escape(fact)}" for fact in n.facts] + [""]
        if n.changes:
            rows = ((cell, metric, was, now, ratio) for _, cell, metric, was, now, ratio in n.changes)
            lines += [*table(("cell", "metric", "was", "is", "ratio"), rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, cells escaped."""
    return [
        "| " + " | ".join(map(escape, head)) + " |", "|" + "---|" * len(head),
        *("| " + " | ".join(map(escape, row)) + " |" for row in rows),
    ]  # fmt: skip


def escape(value: object) -> str:
    """Text as text in Markdown: no tag, link, mention, emphasis or table cell of its own, on one line."""
    said = text.clean(value, 2000).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", said).replace("@", "@\u200b")


def short(verdict: claims.Verdict) -> str:
    """A verdict without its first word, cut to a line or two."""
    words = verdict.sentence.partition(". ")[2] or verdict.sentence
    return text.clean(text.in_words(words), LONGEST)


def pick_words(pick: advice.Pick) -> str:
    """A recommendation in a few words."""
    if not pick.method:
        return pick.why
    worst = f", at worst {units.times(pick.worst)}" if pick.worst > 1.005 else ""
    return f"{pick.words}: {pick.figures} (fastest in {pick.fastest} of {pick.points}{worst})"
