"""The sections of docs/laws.md: wrong verdicts on known truth, sizes foretold, stability over runs."""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from hograd_bench import claims, store
from hograd_bench import run as run_of
from hograd_bench.cells import Cell
from hograd_bench.engine import Limits, Local
from hograd_bench.metrics import Subject
from hograd_bench.metrics._allocations import trace
from hograd_bench.metrics._calls import warm
from hograd_bench.own_files import describe
from hograd_bench.plan import Planned
from hograd_bench.torch_state import threads
from scipy import stats

from studies._document import table
from studies.laws import known_truth, prediction

COVERAGE = 0.9
OPPOSITE = {claims.HOLDS, claims.REFUTED}


def synthetic(trials: int) -> str:
    """Wrong and undecided verdicts on data of known truth."""
    return known_truth.tables(trials)


def foretold(base: Path, measured: Path) -> str:
    """Peak bytes and times at 4N and 8N, foretold from ``base``; what lacks is measured into ``measured``."""
    rows = store.load(base, details=False).rows
    series = prediction.series_of(_of_one_run(rows))
    timed = prediction.timed_targets(rows)
    have = set(store.load(measured, details=False).rows.get("cell", ())) if measured.is_dir() else set()
    left = [Planned(cell) for cell in timed if cell.id not in have]
    if left:
        # In one process, the methods of a problem share its truth, which takes most of the time at these sizes.
        run_of.run(left, measured, Local(limits=Limits(seconds=600.0)), isolate="never")
    far = store.load(measured, details=False).rows
    peaks = _peaks([cell for each in series for cell, _ in each.targets], measured / "peak_bytes.json")
    results = prediction.judged(series, peaks)
    return f"{_bytes_table(results)}\n\n{_times_table(pd.concat([rows, far], ignore_index=True))}"


def _peaks(cells: Sequence[Cell], path: Path) -> dict[str, int | str]:
    """Peak bytes of the cells, or why there are none; kept in a file as they come, so that a stop loses nothing."""
    known: dict[str, int | str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for number, cell in enumerate(cells, start=1):
        if cell.id in known:
            continue
        print(f"{number}/{len(cells)} {cell.id}", file=sys.stderr, flush=True)
        try:
            with threads(cell.threads), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                known[cell.id] = trace(warm(Subject(cell)), cell.device).peak_bytes
        except (RuntimeError, MemoryError) as error:
            known[cell.id] = describe(error)
        path.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return known


def _of_one_run(rows: pd.DataFrame) -> pd.DataFrame:
    """The newest run's rows: exact figures are the same in all."""
    newest: pd.DataFrame = rows[rows["run"] == max(rows["run"])]
    return newest


def _bytes_table(results: Sequence[prediction.Judged]) -> str:
    total = sum(j.series.rows for j in results)
    lines = []
    for outcome in ("exact", "missed", "no law", "not measured"):
        chosen = [j for j in results if j.outcome == outcome]
        cells = sum(j.series.rows for j in chosen)
        lines.append((outcome, len(chosen), cells, f"{cells / total:.1%}"))
    head = ("peak_bytes at 4N and 8N", "series", "ok cells of the sweep", "share")
    rest = [(j.series.name, j.series.rows, f"{j.outcome}: {j.reason}") for j in results if j.outcome != "exact"]
    singles = [r for r in rest if "have 1 sizes" in r[2]]
    told = [r for r in rest if r not in singles]
    text = table(head, lines) + (
        f"\n\n{len(singles)} series ({sum(r[1] for r in singles)} cells) have a single size and so no law."
    )
    return text + ("\n\n" + table(("series that are not exact", "cells", "why"), told) if told else "")


def _times_table(rows: pd.DataFrame) -> str:
    found = list(prediction.forecasts(rows, COVERAGE))
    lines = []
    for factor, same in itertools.product(prediction.FACTORS, (True, False)):
        chosen = [f for f in found if f.factor == factor and f.same_run == same]
        if not chosen:
            continue
        inside = sum(f.covered for f in chosen)
        low, high = stats.binomtest(inside, len(chosen)).proportion_ci()
        width = pd.Series([f.high / f.low for f in chosen]).median()
        cells = len({f.cell for f in chosen})
        lines.append(
            (
                f"{factor}N, {'the same' if same else 'another'} run",
                len(chosen),
                cells,
                f"{inside / len(chosen):.1%}",
                f"{low:.1%} to {high:.1%}",
                width,
            )
        )
    head = (
        f"seconds_min, intervals of {COVERAGE:.0%}",
        "forecasts",
        "cells",
        "covered",
        "95%, were they independent",
        "median high/low",
    )
    return table(head, lines) if lines else "No series has times at 4N or 8N."


def stability(base: Path) -> str:
    """Each claim's and part's verdict in every run alone."""
    rows = store.load(base, details=False).rows
    runs = sorted(rows["run"].unique())
    chosen = list(claims.load())
    by_claim: dict[str, list[str]] = {}
    by_part: dict[str, list[str]] = {}
    by_case: dict[str, list[str]] = {}
    for run in runs:
        for verdict in claims.adjudicate(rows[rows["run"] == run], chosen):
            if verdict.cells == 0:
                continue
            by_claim.setdefault(verdict.claim.id, []).append(verdict.outcome)
            for part in verdict.parts:
                by_part.setdefault(part.part.id, []).append(part.outcome)
                for finding in part.findings:
                    by_case.setdefault(f"{part.part.id} {finding.name}", []).append(finding.outcome)
    head = (
        "",
        "number",
        "the same in every run",
        "differ, never between holds and refuted",
        "flip between holds and refuted",
    )
    lines = []
    for what, seen in (("claims", by_claim), ("parts", by_part), ("cases", by_case)):
        flips = [k for k, v in seen.items() if set(v) >= OPPOSITE]
        same = [k for k, v in seen.items() if len(set(v)) == 1]
        lines.append((what, len(seen), len(same), len(seen) - len(same) - len(flips), len(flips)))
    flipped = [k for k, v in by_case.items() if set(v) >= OPPOSITE]
    text = f"{len(runs)} runs of {rows['cell'].nunique():,} cells.\n\n{table(head, lines)}"
    if flipped:
        told = [(k, *(f"{n} × {o}" for o, n in sorted(Counter(by_case[k]).items()))) for k in flipped]
        text += "\n\nCases that flip:\n\n" + "\n".join("- " + ": ".join(map(str, t)) for t in told)
    moved = [
        (k, ", ".join(f"{n} × {o}" for o, n in sorted(Counter(v).items())))
        for k, v in by_claim.items()
        if len(set(v)) > 1
    ]
    if moved:
        text += "\n\n" + table(("claim whose verdict differs between runs", "verdicts"), moved)
    return text
