"""What the page, the Markdown and the terminal all say: computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hograd_bench import claims
from hograd_bench.report import advice, news
from hograd_bench.report.cells import anchors_of
from hograd_bench.report.shown import Shown


@dataclass(frozen=True)
class Answers:
    """The top of the report.

    Attributes:
        verdicts: in the claims' order.
        needs: recommendations.
        news: the latest run of each machine against the one before.
        changed: claims whose verdict is another than before the latest runs: (id, title, was, is).
    """

    verdicts: Sequence[claims.Verdict]
    needs: Sequence[advice.Need]
    news: Sequence[news.News]
    changed: Sequence[tuple[str, str, str, str]]


def answers(shown: Shown, verdicts: Sequence[claims.Verdict], earlier: Sequence[claims.Verdict]) -> Answers:
    """Everything at the top of the report.

    Args:
        shown: what the report speaks about.
        verdicts: on ``shown.rows``.
        earlier: what was said before the latest runs; empty where there was nothing before.
    """
    return Answers(
        verdicts,
        advice.advise(shown.ok),
        news.news(shown, anchors_of(shown.rows)),
        news.verdict_changes(verdicts, earlier),
    )
