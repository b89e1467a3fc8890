"""Advice as HTML: a page by itself, or a fragment for a notebook; in the style of the report."""

from __future__ import annotations

from hograd_bench.advise import _terminal
from hograd_bench.advise._advice import Advice
from hograd_bench.report import page as report_page


def page(advice: Advice) -> str:
    """One self-contained file."""
    return _render(advice, "advice_page.html.j2", **report_page.assets())


def fragment(advice: Advice) -> str:
    """What a notebook shows."""
    return _render(advice, "advice_fragment.html.j2")


def _render(advice: Advice, name: str, **more: object) -> str:
    return report_page.template(name).render(
        title=f"hograd advise {advice.request['target']}",
        advice=advice,
        summary=_terminal.summary(advice.described) if advice.described else "",
        named=_terminal.named,
        cells=_terminal.cells,
        **more,
    )
