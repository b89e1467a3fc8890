"""The report's tables for people who stay in the terminal."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from hograd_bench import units
from hograd_bench.report import text
from hograd_bench.report.summary import Summary, pick_words, short
from hograd_bench.report.verdicts import mark

_STYLES = {"holds": "green", "refuted": "red", "partial": "yellow", "open": "dim"}


def show(console: Console, said: Summary) -> None:
    """Recommendations, verdicts and what is new. Text from data is never read as markup."""
    for need in (n for n in said.needs if n.main):
        heads = ["any memory" if math.isinf(b) else f"≤ {units.binary(b)}" for b in need.budgets]
        columns = [Column(head, overflow="fold") for head in heads]
        table = Table("k", "dimension", *columns, title=f"You need {need.words}", title_justify="left")
        for s in need.situations:
            table.add_row(str(s.order), s.band, *(Text(text.clean(pick_words(p), 160)) for p in s.picks))
        console.print(table)
    decided, waiting = said.decided
    table = Table("claim", "verdict", "in words", title="Verdicts", title_justify="left")
    for verdict in decided:
        kind, sign, words = mark(verdict.outcome)
        name = Text(f"{verdict.claim.id} {text.clean(verdict.claim.title)}")
        table.add_row(name, Text(f"{sign} {words}", style=_STYLES[kind]), Text(short(verdict)))
    if decided:
        console.print(table)
    if waiting:
        console.print(Text(waiting))
    for n in said.run_diffs:
        console.print(
            Text(f"{text.clean(n.machine)}: run {text.clean(n.after)} against {text.clean(n.before)}", "bold")
        )
        for fact in n.facts:
            console.print(Text(f"  {text.clean(fact, 400)}"))
