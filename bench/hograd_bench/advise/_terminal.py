"""Advice for a terminal."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from hograd_bench import units
from hograd_bench.advise._advice import Advice
from hograd_bench.advise._ranking import Ranked, Ranking

_ROWS = 12
"""Methods shown of one operator; the JSON and the page have all."""


def show(advice: Advice, console: Console) -> None:
    """Print it."""
    if advice.lost:
        console.print(f"[red]{escape(advice.lost)}[/red]", soft_wrap=True)
        if advice.lost_more:
            console.print(advice.lost_more, markup=False, soft_wrap=True)
        return
    console.print(f"[bold]{escape(str(advice.request['target']))}[/bold]  {escape(summary(advice.described))}")
    for note in advice.notes:
        console.print(note, markup=False)
    for sign in advice.signs:
        text = f"{sign['name']}: {sign['says']}. {sign['remedy']}"
        console.print(f"[yellow]! {escape(text)}[/yellow]", soft_wrap=True)
    for ranking in advice.rankings:
        console.print()
        console.print(_table(ranking))
        if ranking.best is None:
            console.print(f"[yellow]{escape(ranking.why)}[/yellow]")
        elif ranking.best is not ranking.ranked[0]:
            taken = f"  to take: {named(ranking.best)}, as fast within what calls vary by, and with less memory"
            console.print(taken, markup=False, soft_wrap=True)
        for each in _reasons(ranking):
            console.print(each, markup=False, soft_wrap=True)
    _foretold(advice, console)
    if advice.snippet():
        console.print("\n[bold]The calls to make[/bold]")
        # Whole lines, from the margin: what is copied from a terminal runs.
        code = Syntax("", "python", theme="ansi_light", background_color="default").highlight(advice.snippet())
        console.print(code, soft_wrap=True)
    console.print(f"\nin {advice.seconds:.0f} s", markup=False)


def text(advice: Advice) -> str:
    """The same without colours."""
    file = io.StringIO()
    show(advice, Console(file=file, width=120, highlight=False))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def summary(described: Mapping[str, Any]) -> str:
    """The function in a line."""
    return (
        f"{described['numel']:,} elements of {described['dtype']} on {described['device']}; a gradient takes "
        f"{units.seconds(described['gradient_seconds'])}; memory budget {units.binary(described['memory'])}"
    )


def cells(ranked: Ranked) -> tuple[str, ...]:
    """A method's line: time, gradients, peak, error."""
    if math.isfinite(ranked.foretold):
        return (f"{units.seconds(ranked.foretold)} foretold", "", "", "")
    if ranked.status != "ok":
        return (ranked.status, "", "", "")
    over = " (over)" if ranked.fits is False else ""
    return (
        units.seconds(ranked.seconds) if math.isfinite(ranked.seconds) else "–",
        units.figures(ranked.gradients) if math.isfinite(ranked.gradients) else "–",
        units.binary(ranked.peak) + over if math.isfinite(ranked.peak) else "–",
        f"{ranked.error:.1e}{' (samples)' if ranked.sampled else ''}" if math.isfinite(ranked.error) else "–",
    )


def named(ranked: Ranked) -> str:
    """The method with its preparation."""
    plain = ranked.method if ranked.preparation == "eager" else f"{ranked.method}, {ranked.preparation}"
    if math.isfinite(ranked.pays_after):
        plain += f", pays after {ranked.pays_after:,.0f} calls"
    return plain if ranked.exact else f"{plain} (estimate)"


def _table(ranking: Ranking) -> Table:
    table = Table("method", "time", "gradients", "peak", "error", title=ranking.need.name, title_justify="left")
    for each in ranking.ranked[:_ROWS]:
        table.add_row(escape(named(each)), *map(escape, cells(each)), style="bold" if each is ranking.best else None)
    return table


def _reasons(ranking: Ranking) -> list[str]:
    """What does not work, one line a reason."""
    by: dict[tuple[str, str, str], list[str]] = {}
    for each in ranking.ranked:
        if each.status != "ok":
            by.setdefault((each.status, each.reason, each.remedy), []).append(named(each))
        elif each.sampled:
            by.setdefault(("samples", f"held against truth at {each.sampled} alone", ""), []).append(named(each))
    return [
        f"  {', '.join(names)}: {status}: {reason}" + (f"; {remedy}" if remedy else "")
        for (status, reason, remedy), names in by.items()
    ]


def _unforetold(advice: Advice) -> str:
    """Why, and what to do about it."""
    if advice.described["parameter"] is None:
        return "the target has no size; a factory make(n) that returns (f, x) has"
    if not advice.described["law_sizes"]:
        return "the function runs at this size alone, or not at small ones"
    return "no law was found from the small sizes that there was time to measure; more --seconds"


def _foretold(advice: Advice, console: Console) -> None:
    if advice.foretold:
        console.print("\n[bold]At other sizes[/bold], by exact laws")
    else:
        console.print(f"\nAt other sizes nothing is foretold: {_unforetold(advice)}", markup=False, soft_wrap=True)
    for each in advice.foretold:
        console.print(f"  {each.text}{'' if each.fits else ': more than the budget'}", markup=False, soft_wrap=True)
