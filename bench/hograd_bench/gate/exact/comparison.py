"""The exact gate: two runs and a comparison. Against the committed baseline, or of two sides measured here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from hograd_bench import metrics
from hograd_bench.engine import Engine
from hograd_bench.gate import agreement
from hograd_bench.gate.exact import baseline
from hograd_bench.gate.exact.findings import compared, findings, gone, made_of
from hograd_bench.gate.exact.measuring import Log, Wanted, describe, measure, silent
from hograd_bench.gate.outcome import Finding, Outcome, by_weight
from hograd_bench.gate.revisions.sides import Side, Twin
from hograd_bench.scratch import scratch


def against_baseline(
    side: Side, cells: Sequence[str], folder: Path, *, update: bool = False,
    concerns: Callable[[str], bool] | None = None,
    tolerance: Mapping[str, float] | None = None, log: Log = silent, engine: Engine | None = None,
) -> Outcome:  # fmt: skip
    """Exact metrics of a side against the committed baseline of this machine's key, and results against truth.

    Args:
        side: what to measure.
        cells: ids of the gate's cells.
        folder: where baselines lie.
        update: write what was measured into the baseline.
        concerns: which of the baseline's cells are asked about, all where None; the others stay as they are.
        tolerance: metric -> relative growth allowed.
        log: gets progress.
        engine: runs the cells; local processes where None.

    Returns:
        The outcome; without a baseline for the key it is "not comparable", never a pass.

    Raises:
        BaselineError: the baseline is damaged.
        NotComparableError: the side has no suite.
    """
    start = time.monotonic()
    about = describe(side, gpu=_on_gpu(cells))
    key = about.key
    with scratch() as kept:
        (head,) = measure([Wanted(side, about, cells, kept)], log, engine)
    outcome = Outcome(f"exact metrics against the baseline {key.folder}", sides={"head": {"name": side.name}})
    stored = None
    if not update or concerns is not None:  # a damaged one is no obstacle to writing all of it anew
        stored = baseline.load(folder, key)
    records = {**metrics.known(), **about.records}  # what the baseline brings, and is measured no more, counts too
    others = {c: row for c, row in (stored or {}).items() if concerns is not None and not concerns(c)}
    base = {c: row for c, row in (stored or {}).items() if c not in others}
    outcome.findings = findings(base, head, records, tolerance)
    outcome.changes = made_of(outcome.findings, base, head)
    wrong = [f for f in outcome.findings if f.kind == "wrong"]
    outcome.counted = compared(base, head, records)
    why = ""
    if update:
        outcome.findings, outcome.changes = wrong, []
        outcome.counted = len(head)
        if wrong:
            log("nothing written: a baseline holds no wrong results")
        else:
            path = baseline.save(folder, key, {**others, **head}.values(), records)
            unasked = f", {len(others)} others as they were" if others else ""
            log(f"wrote {path}: {len(head)} cells{unasked}; read the diff, then commit it")
    elif wrong:
        pass
    elif stored is None:
        outcome.findings, outcome.changes = [], []
        why = (
            f"no baseline for this key ({key}) in {folder}; `hograd gate --update` on this machine writes "
            f"{key.folder}, or `hograd gate --base REV` measures both sides here. Baselines there are: "
            f"{', '.join(baseline.available(folder)) or 'none'}"
        )
    elif not base:
        why = f"{key.folder} has none of these cells; --update adds them"
    elif not outcome.counted:
        why = f"none of these cells is ok both in {key.folder} and now"
    if why:
        outcome.findings.append(Finding("not comparable", "", "", why))
    outcome.findings = by_weight(outcome.findings)
    outcome.seconds = time.monotonic() - start
    return outcome


def between_sides(
    outcome: Outcome,
    a: tuple[Side, Side],
    b: tuple[Side, Side],
    cells: Sequence[Twin],
    tolerance: Mapping[str, float] | None,
    whole: bool,
    log: Log,
    engine: Engine | None,
) -> None:
    """Exact metrics and results of both sides, each as it is named and as it is reached, into the outcome.

    Args:
        outcome: gets the findings, what the sides are and how many cells were compared.
        a: the base.
        b: the head.
        cells: what to compare with what.
        tolerance: metric -> relative growth allowed.
        whole: whether the cells are the gate's own on B: those of A's suite are added, and what only A has is missing.
        log: gets progress.
        engine: runs the cells; local processes where None.

    Raises:
        NotComparableError: a side has no suite, lacks a plugin or does not start.
    """
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(describe, a[1], gpu=_on_gpu(t.a for t in cells), preset=whole and not a[1].plugins),
            pool.submit(describe, b[1], gpu=_on_gpu(t.b for t in cells)),
        ]
        base, head = (future.result() for future in asked)
    outcome.sides = {"A": {"name": a[0].name, **asdict(base.key)}, "B": {"name": b[0].name, **asdict(head.key)}}
    if base.unlisted:
        said = f"{a[0].name} cannot list its gate's cells ({base.unlisted}): what only it has is not measured"
        outcome.findings.append(Finding("unsteady", "", "", said))
    if whole and (others := [c for c in base.preset if c not in {t.a for t in cells}]):
        # The gate's cells of A that are none of B's: a method that lost an order, a problem that moved.
        log(f"{len(others)} cells of {a[0].name}'s gate are not in {b[0].name}'s: measured on both")
        cells = [*cells, *(Twin(c, c, c) for c in others)]
    records = {**base.records, **head.records}
    with scratch() as folder:
        for letter in "ab":
            (folder / letter).mkdir()
        ours = Wanted(b[1], head, [t.b for t in cells], folder / "b")
        found_a, found_b = measure([Wanted(a[1], base, [t.a for t in cells], folder / "a"), ours], log, engine)
        rows_a = {t.name: found_a[t.a] for t in cells if t.a in found_a}
        rows_b = {t.name: found_b[t.b] for t in cells if t.b in found_b}
        outcome.findings += findings(rows_a, rows_b, records, tolerance, stored=False)
        outcome.changes = made_of(outcome.findings, rows_a, rows_b)
        for name in rows_a.keys() & rows_b.keys():
            if rows_a[name]["status"] == rows_b[name]["status"] == "ok":
                why = agreement.between(rows_a[name], rows_b[name], (folder / "a", folder / "b"))
                if why is not None:
                    outcome.findings.append(Finding("wrong", name, "result", f"the sides disagree: {why}"))
    outcome.counted = compared(rows_a, rows_b, records)
    if whole:
        outcome.findings += gone(base.methods, head.methods)


def _on_gpu(cells: Iterable[str]) -> bool:
    return any("/cuda/" in cell for cell in cells)
