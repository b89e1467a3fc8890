"""Results in; a page, its data and a summary out. The only place of this room that touches files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from rich.console import Console

from hograd_bench import claims, store
from hograd_bench import compare as comparing
from hograd_bench.environment import MetricRecord
from hograd_bench.report import benchmark_json as benchmarks
from hograd_bench.report import comparison, export, page, run_diff, summary, terminal
from hograd_bench.report.data import report_data
from hograd_bench.report.summary import Summary


class ReportError(RuntimeError):
    """The report cannot be built or written; the message says what to do."""


@dataclass
class Built:
    """What was written.

    Attributes:
        path: the page.
        summary: what its top says; None for a comparison.
        warnings: what is missing from the data, was not read, or left out.
    """

    path: Path
    summary: Summary | None = None
    warnings: list[str] = field(default_factory=list)

    def print(self, console: Console) -> None:
        """The verdicts and recommendations as tables, and where the page is."""
        for warning in self.warnings[:5]:
            console.print(f"warning: {warning}", markup=False, highlight=False)
        if len(self.warnings) > 5:
            console.print(f"warning: and {len(self.warnings) - 5} more, listed in the report", markup=False)
        if self.summary is not None:
            terminal.show(console, self.summary)
        console.print(f"report: {self.path}", markup=False, highlight=False, soft_wrap=True)


def build(
    results: Path,
    reports: Path,
    *,
    records: Mapping[str, MetricRecord] | None = None,
    runs: Sequence[str] = (),
    markdown: Path | None = None,
    benchmark_json: Path | None = None,
) -> Built:
    """Build ``reports/index.html`` and beside it rows.csv, rows.parquet and summary.md.

    Args:
        results: a results root, a machine's folder or a run's own.
        reports: folder to write to.
        records: metric records, by name; None: those installed, and those that came with the runs.
        runs: ids of the runs to report on; none: all.
        markdown: also write the Markdown summary here.
        benchmark_json: also write the newest row of each cell here, in pytest-benchmark's JSON.

    Raises:
        ReportError: no results, or the folder cannot be written.
    """
    try:
        chosen = {store.find_run(results, name).resolve().name for name in runs}
        loaded = store.load(results, runs=chosen or None)
    except store.StoreError as error:
        raise ReportError(str(error)) from None
    if loaded.rows.empty:
        remedy = "measure some with `hograd run`"
        if loaded.warnings:
            remedy = f"{len(loaded.warnings)} lines or files cannot be read, the first: {loaded.warnings[0]}"
        raise ReportError(f"{results}: no rows to report on; {remedy}")
    rows = (run_diff.earlier(loaded.rows), store.newest(loaded.rows))
    earlier, verdicts = (claims.adjudicate(r) if len(r) else [] for r in rows)
    cited = {cell for v in verdicts for p in v.parts for f in p.findings for cell in f.cells}
    what = report_data(loaded, records, cited)
    warnings = [
        *run_diff.unfinished(loaded.rows, loaded.environments, loaded.outdated),
        *(str(w) for w in loaded.warnings),
    ]
    said = summary.summarise(what, verdicts, earlier)
    words = summary.markdown(what, said, warnings)
    table = export.table(loaded.rows)
    html = page.render(what, said, warnings, results.as_posix())
    path = reports / "index.html"
    files: dict[Path, Callable[[Path], None]] = {
        reports / "rows.csv": lambda staging: export.csv(table, staging),
        reports / "rows.parquet": lambda staging: export.parquet(table, staging),
        path: lambda staging: _text(staging, html),
        reports / "summary.md": lambda staging: _text(staging, words),
    }
    if markdown is not None:
        files[markdown] = lambda staging: _text(staging, words)
    if benchmark_json is not None:
        exported = _benchmarks(rows[1], loaded)
        files[benchmark_json] = lambda staging: _text(staging, exported)
    write(files)
    return Built(path, said, warnings)


def _benchmarks(rows: pd.DataFrame, loaded: store.Results) -> str:
    machines = sorted(rows["machine"].unique())
    if len(machines) > 1:
        raise ReportError(
            f"--benchmark-json: the rows are of {len(machines)} machines ({', '.join(machines)}), the file has one; "
            "choose runs of one with --run"
        )
    environment = loaded.environment(machines[0], max(rows["run"]))
    return json.dumps(benchmarks.document(rows, environment), allow_nan=False, ensure_ascii=False, indent=1) + "\n"


def build_comparison(
    results: Path, reports: Path, a: str, b: str, *, records: Mapping[str, MetricRecord] | None = None
) -> Built:
    """Build a page that compares two runs, ``reports/compare-A-B.html``.

    Args:
        results: a results root.
        reports: folder to write to.
        a: a run: its folder, id, beginning of its id, or "latest".
        b: another.
        records: metric records.

    Raises:
        ReportError: no such runs, or the folder cannot be written.
    """
    try:
        folders = [store.find_run(results, name) for name in (a, b)]
        loaded = [store.load(folder) for folder in folders]
    except store.StoreError as error:
        raise ReportError(str(error)) from None
    for folder, one in zip(folders, loaded, strict=True):
        if one.rows.empty:
            raise ReportError(f"{folder}: no rows to compare")
    names = [folder.resolve().name for folder in folders]
    html = comparison.render(loaded[0], loaded[1], names[0], names[1], records)
    path = reports / f"compare-{export.file_name(names[0])}-{export.file_name(names[1])}.html"
    write({path: lambda staging: _text(staging, html)})
    warnings = [str(w) for one in loaded for w in one.warnings]
    return Built(path, warnings=[*comparing.doubts(*folders), *warnings])


def write(files: Mapping[Path, Callable[[Path], None]]) -> None:
    """Write files beside and move all over at the end: a full disk leaves the last good ones.

    Raises:
        ReportError: one cannot be written; the message names it.
    """
    path = next(iter(files))
    try:
        with contextlib.ExitStack() as stack:
            for path, fill in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                fill(stack.enter_context(store.replacing(path)))
    except OSError as error:
        raise ReportError(
            f"{path}: cannot write: {error.strerror or error}; choose another folder with --reports"
        ) from None


def _text(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8", errors="replace")
