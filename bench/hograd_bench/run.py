"""A run: a plan, an environment and a folder of rows, with progress for the person who waits.

What becomes of each cell is driver.py's; here are the beginning, the end, and going on after a stop.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hograd_bench import (
    ceilings,
    claim_cells,
    claims,
    driver,
    environment,
    known,
    measure,
    metrics,
    peers,
    plan,
    problems,
    store,
)
from hograd_bench.cells import Cell
from hograd_bench.driver import Event, Isolation
from hograd_bench.engine import FATAL, Engine, EngineError, Host, Local
from hograd_bench.plan import Planned

_TIMED, _UNTIMED = 4.0, 1.0  # what a timed cell takes in untimed ones, for the ETA
_SAY_EVERY = 10.0  # seconds between lines where no progress bar can be drawn


class RunError(RuntimeError):
    """The run cannot start or go on; the message says what to do."""


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        path: folder of the run.
        statuses: number of rows by status, of this call.
        seconds: wall time of this call.
        interrupted: whether Ctrl-C ended it.
    """

    path: Path
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def finished(self) -> int:
        """Rows written by this call."""
        return sum(self.statuses.values())

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the run, as JSON-ready objects."""
        return store.read_rows(self.path)

    def print(self, console: Console) -> None:
        """How many cells ended how, and where the rows are."""
        said = ", ".join(f"{count} {status}" for status, count in self.statuses.most_common())
        console.print(
            f"{self.finished} cell{'s' * (self.finished != 1)} in {self.seconds:.0f} s: "
            f"{said or 'nothing was left to do'}",
            markup=False,
        )
        for reason, count in self.reasons.most_common(8):
            console.print(f"  {count} × {reason}", markup=False)
        console.print(f"rows: {self.path / 'rows.jsonl'}", markup=False)


def planned(
    preset: str, cells: Sequence[str], on: Sequence[str], only: str, device: str | None, budget: int
) -> list[Planned]:
    """The plan that the arguments ask for.

    Args:
        preset: name of a preset, used where ``cells`` is empty.
        on: problems to sweep instead of the preset's own.
        cells: ids of cells.
        only: keep ids that contain this text.
        device: move every cell there.
        budget: bytes that a cell's result may take.

    Raises:
        ValueError: an unknown preset, a malformed id, or an id that names nothing.
    """
    if cells:
        plans = []
        for text in cells:
            cell = Cell.parse(text)
            sweep = plan.Sweep(
                cell.operator, (cell.method,), (cell.problem,), (cell.n,), (cell.depth,), (cell.batch,), (cell.order,),
                (cell.dtype,), (cell.device,), (cell.threads,), (cell.preparation,),
            )  # fmt: skip
            plans += plan.expand(sweep)
        plans = plan.within_budget(plan.merge(plans), budget)
    else:
        plans = plan.preset(preset, budget, on)
        wanted = plan.load_presets()[preset].get("claims", ())
        if wanted and not on:
            needed = claim_cells.planned([claim for claim in claims.load() if claim.id in wanted])
            plans = plan.within_budget(plan.merge([*needed, *plans]), budget)
    if device is not None:
        plans = [replace(p, cell=replace(p.cell, device=device)) for p in plans]
    return [p for p in plans if only in p.cell.id]


def run(
    plans: Sequence[Planned],
    results: Path,
    engine: Engine | None = None,
    *,
    isolate: Isolation = "auto",
    resident: bool = False,
    resume: bool = False,
    problem_files: Sequence[Path] = (),
    console: Console | None = None,
) -> Outcome:
    """Measure the plan into a new run of ``results``, or go on with the newest one of this machine.

    Args:
        plans: what to measure.
        results: root of the results.
        engine: what runs the cells; None: one process of this machine at a time, with the usual limits.
        isolate: which cells get a process of their own; see :func:`hograd_bench.driver.execute`.
        resident: also measure each cell's peak of resident memory, in a further process.
        resume: go on with the newest run of this machine instead of starting one.
        problem_files: files that declare further problems.
        console: where progress goes.

    Returns:
        What was done; after Ctrl-C too.

    Raises:
        RunError: results cannot be written, nothing fits to resume, or processes cannot start.
    """
    console = console or Console(stderr=True)
    console.print("recording the environment and the machine's ceilings …", markup=False)
    here = environment.record(peers.packages(p.cell for p in plans))
    try:
        opened = _resumed(results, here) if resume else store.create_run(results, _complete(here, problem_files, plans))
        known_failures = _known_failures(results)
    except store.StoreError as error:
        raise RunError(str(error)) from None
    outcome = Outcome(opened.path)
    done = opened.finished_cells()
    left = [p for p in plans if p.cell.id not in done]
    started = time.monotonic()
    with _Display(left, console) as display:

        def on_event(event: Event) -> None:
            outcome.statuses[event.status] += 1
            if event.status not in ("ok", "skipped"):
                outcome.reasons[f"{event.status}: {event.reason}"] += 1
            display.advance(event)

        try:
            driver.execute(
                plans,
                opened,
                engine or Local(),
                on_event,
                isolate=isolate,
                apart=measure.APART if resident else (),
                known_failures=known_failures,
                host=Host(problem_files=tuple(str(path) for path in problem_files)),
            )
        except KeyboardInterrupt:
            outcome.interrupted = True
        except (EngineError, store.StoreError) as error:
            raise RunError(str(error)) from None
    outcome.seconds = time.monotonic() - started
    if os.environ.get(known.CACHE):
        known.remember(f"run-{opened.path.name}", store.load(opened.path, details=False).rows)
    return outcome


def _complete(here: dict[str, Any], problem_files: Sequence[Path], plans: Sequence[Planned]) -> dict[str, Any]:
    """The environment with the machine's ceilings, and what it takes to measure a cell again and to read all."""
    files = [str(file) for file in problem_files]
    own = {"problem_files": files, "problems": problems.texts()} if files else {}
    return {
        **here,
        "plan": {"cells": len(plans), **own},
        "ceilings": ceilings.measure(),
        "metrics": metrics.as_json(),
        "facts": plan.facts(p.cell for p in plans),
    }


def _resumed(results: Path, here: dict[str, Any]) -> store.Run:
    """The newest run of this machine, if what it measured can be continued in this environment."""
    try:
        newest = store.find_run(results / environment.machine_slug(here), "latest")
    except store.StoreError:
        raise RunError(f"--resume: no run of this machine in {results}; start one without --resume") from None
    opened = store.open_run(newest)
    verdict = environment.comparable(opened.environment, here)
    if verdict.level != "full":
        raise RunError(
            f"--resume: {newest.name} was made in another environment ({'; '.join(verdict.reasons)}); "
            "start a new run without --resume"
        )
    now = problems.texts()
    then = store.texts_of(opened.environment)
    changed = [name for name, text in now.items() if then.get(name) != text]
    if changed:
        raise RunError(
            f"--resume: {newest.name} began without the file that declares {', '.join(changed)}, or with another text "
            "of it; start a new run without --resume"
        )
    return opened


def _known_failures(results: Path) -> set[str]:
    """Ids of cells that ended badly, or were large, in any earlier run of any machine."""
    rows = store.load(results, details=False).rows
    large = rows["peak_bytes"] > 4 * driver.ISOLATE_ABOVE if "peak_bytes" in rows else False
    return set(rows.loc[rows["status"].isin(FATAL) | large, "cell"])


class _Display:
    """A progress bar with ETA on a terminal; a line every few seconds elsewhere."""

    def __init__(self, plans: Sequence[Planned], console: Console) -> None:
        self._console = console
        self._weights = {p.cell.id: _TIMED if "time" in p.families and not p.skip else _UNTIMED for p in plans}
        self._cells = len(plans)
        self._settled = 0
        self._work = 0.0
        self._start = self._said = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.percentage:>3.0f}%"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[cell]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("cells", total=sum(self._weights.values()) or 1.0, cell="")

    def __enter__(self) -> _Display:
        self._console.print(
            f"{self._cells} cell{'s' * (self._cells != 1)} to measure; Ctrl-C keeps every finished row", markup=False
        )
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def advance(self, event: Event) -> None:
        """One cell settled."""
        self._settled += 1
        weight = self._weights.get(event.planned.cell.id, _UNTIMED)
        self._work += weight
        self._progress.update(self._task, advance=weight, cell=event.planned.cell.id[:70])
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said >= _SAY_EVERY:
            self._said = now
            gone = now - self._start
            left = gone * (sum(self._weights.values()) / self._work - 1)
            self._console.print(
                f"{self._settled}/{self._cells} cells, {gone:.0f} s gone, about {left:.0f} s to go", markup=False
            )
