"""Results in, one page out. The only place of this room that touches files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from hograd_bench import store
from hograd_bench.report import page


class ReportError(RuntimeError):
    """The report cannot be built or written; the message says what to do."""


@dataclass
class Built:
    """What was written.

    Attributes:
        path: the page.
        headlines: one plain sentence a verdict.
        warnings: what could not be read.
    """

    path: Path
    headlines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def print(self, console: Console) -> None:
        """Where the page is, and the headline verdicts."""
        for warning in self.warnings[:5]:
            console.print(f"warning: {warning}", markup=False)
        for headline in self.headlines:
            console.print(headline, markup=False)
        console.print(f"report: {self.path}", markup=False)


def build(results: Path, reports: Path) -> Built:
    """Build ``reports/index.html`` from the newest run of each machine under ``results``.

    Raises:
        ReportError: no results, or the folder cannot be written.
    """
    try:
        loaded = store.load(results)
    except store.StoreError as error:
        raise ReportError(str(error)) from None
    if loaded.rows.empty:
        raise ReportError(f"{results}: no rows to report on; measure some with `hograd run`")
    newest = store.newest(loaded.rows)
    html, headlines = page.render(newest, loaded, results)
    path = reports / "index.html"
    try:
        reports.mkdir(parents=True, exist_ok=True)
        # Written beside and moved over: a full disk leaves the last good page.
        staging = reports / ".index.html.part"
        staging.write_text(html, encoding="utf-8")
        os.replace(staging, path)
    except OSError as error:
        raise ReportError(f"{path}: cannot write: {error.strerror}; choose another folder with --reports") from None
    return Built(path, headlines, [str(w) for w in loaded.warnings])
