"""A run: a plan, an environment and a folder of rows, with progress for the person who waits.

What becomes of each cell is driver.py's; here are the beginning, the end, and going on after a stop.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hograd_bench import (
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
from hograd_bench.engine import FATAL, Cluster, Engine, EngineError, Host, Local, LostError, call
from hograd_bench.plan import Planned

if sys.platform != "win32":
    import fcntl

_TIMED, _UNTIMED = 4.0, 1.0  # what a timed cell takes in untimed ones, for the ETA
_CENSUS_SECONDS = 30.0
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
        ended: cell -> status, of all rows of the run, those of earlier calls among them.
    """

    path: Path
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    interrupted: bool = False
    ended: dict[str, str] = field(default_factory=dict)

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


@dataclass(frozen=True)
class Asked:
    """Which cells a person asks for.

    Attributes:
        preset: name of a preset: its sweeps, where neither ``cells`` nor ``operators`` say otherwise.
        cells: ids of cells, instead.
        operators: names or aliases to sweep instead of the preset's.
        methods: of these operators; none: all.
        problems: to sweep instead of the preset's own.
        problem_files: files that declare problems.
        axes: sizes, orders, dtypes and so on to sweep instead of the preset's, by their names in a sweep.
        only: keep what this text selects; see :func:`hograd_bench.plan.selected`.
        device: move every cell there.
        budget: bytes that a cell's result may take.
        timed: whether times are taken too.
    """

    preset: str = "default"
    cells: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    problem_files: tuple[str, ...] = ()
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    only: str = ""
    device: str | None = None
    budget: int = plan.MEMORY_BUDGET
    timed: bool = True


def planned(asked: Asked) -> list[Planned]:
    """The plan for what is asked.

    Raises:
        ValueError: an unknown name, a malformed id, or a size that none of the problems has.
    """
    plans = plan.merge(_cells(asked))
    if asked.device is not None:
        plans = [replace(p, cell=replace(p.cell, device=asked.device)) for p in plans]
    if not asked.timed:
        plans = [replace(p, families=tuple(name for name in p.families if name != "time")) for p in plans]
    plans = plan.selected(plans, asked.only) if asked.only else plans
    return plan.within_budget(plans, asked.budget, functools.partial(_census, asked.problem_files))


def _cells(asked: Asked) -> list[Planned]:
    on = asked.problems
    if asked.cells:
        return plan.cells_of(plan.of_cell(Cell.parse(text)) for text in asked.cells)
    if asked.operators:
        methods = {"methods": asked.methods or ("*",)}
        sweeps = [plan.changed(plan.Sweep(name), on, **methods, **asked.axes) for name in asked.operators]
        for name, sweep in zip(asked.operators, sweeps, strict=True):
            if sweep is None:
                raise ValueError(f"operator: none of the problems {', '.join(on)} provides what {name} needs")
    else:
        sweeps = [plan.changed(sweep, on, methods=asked.methods, **asked.axes) for sweep in plan.sweeps(asked.preset)]
    plans = plan.cells_of(sweeps)
    for size in plan.SIZES:
        wanted = asked.axes.get(size)
        if wanted and not any(getattr(p.cell, size) in wanted for p in plans):
            raise ValueError(f"{size}: got {', '.join(map(str, wanted))}, but none of the problems has this size")
    claimed = plan.load_presets().get(asked.preset, {}).get("claims", ())
    if claimed and not (on or asked.operators or asked.axes or asked.methods):
        needed = claim_cells.planned([claim for claim in claims.load() if claim.id in claimed])
        plans = plan.merge([*needed, *plans])
    return plans


def _census(files: Sequence[str], instances: Sequence[plan.Sized]) -> list[int | None]:
    """Entries of x of each; those of problem files are asked in a process, which they may hang or end."""
    own = problems.texts()
    apart = [each for each in instances if each[0] in own]
    known: dict[plan.Sized, int | None] = {}
    if apart:
        with contextlib.suppress(LostError):  # then the cells' own processes will say
            host = Host(problem_files=tuple(files))
            answers = call(host, "hograd_bench.problems:numels", apart, seconds=_CENSUS_SECONDS)
            known = dict(zip(apart, answers, strict=True))
    here = [each for each in instances if each[0] not in own]
    known.update(zip(here, plan.census_here(here), strict=True))
    return [known.get(each) for each in instances]


def run(
    plans: Sequence[Planned],
    results: Path,
    engine: Engine | None = None,
    *,
    isolate: Isolation = "auto",
    resident: bool = False,
    resume: bool = False,
    problem_files: Sequence[Path] = (),
    record: Mapping[str, Any] | None = None,
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
        record: what else the run should say of how it was asked for, JSON-ready; :func:`recorded` reads it back.
        console: where progress goes.

    Returns:
        What was done; after Ctrl-C too.

    Raises:
        RunError: results cannot be written, nothing fits to resume, or processes cannot start.
    """
    console = console or Console(stderr=True)
    console.print("recording the environment and the machine's ceilings …", markup=False)
    engine = engine or Local()
    here = engine.environment(peers.packages(p.cell for p in plans))
    try:
        if resume:
            opened = _resumed(results, here)
        else:
            described = {**_complete(here, problem_files, plans, record or {}), "ceilings": engine.ceilings()}
            opened = store.create_run(results, described)
        opened.hold()
        known_failures = _known_failures(results)
    except store.StoreError as error:
        raise RunError(str(error)) from None
    outcome = Outcome(opened.path)
    here_timed = isinstance(engine, Local) and any("time" in p.families for p in plans)
    alone = _timing_alone() if here_timed else None
    if alone is False:
        console.print(
            "hograd: another run is taking times on this machine: each disturbs the other's; exact figures are safe",
            style="yellow", markup=False,
        )  # fmt: skip
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
                engine,
                on_event,
                isolate=isolate,
                apart=measure.APART if resident else (),
                known_failures=known_failures,
                host=Host(problem_files=tuple(str(path.resolve()) for path in problem_files)),
            )
        except KeyboardInterrupt:
            outcome.interrupted = True
        except (EngineError, store.StoreError) as error:
            raise RunError(str(error)) from None
        finally:
            outcome.ended = opened.finished_cells()
            opened.close()
            if alone is not None and alone is not False:
                alone.close()
    outcome.seconds = time.monotonic() - started
    if os.environ.get(known.CACHE):
        known.remember(f"run-{opened.path.name}", store.load(opened.path, details=False).rows)
    return outcome


def recorded(results: Path, on: str = "local") -> dict[str, Any]:
    """How the newest run was asked for, {} where it does not say: of this machine, or of those on Ray, wherever.

    Raises:
        RunError: there is none.
    """
    if on == "local":
        plan_of: dict[str, Any] = store.environment_of(_newest(results, environment.record())).get("plan", {})
        return plan_of
    try:
        plans = [store.environment_of(folder).get("plan", {}) for folder in _by_time(results)]
    except store.StoreError as error:
        raise RunError(f"--resume: {error}") from None
    there = [plan for plan in plans if plan.get("asked", {}).get("on") == on]
    if not there:
        raise RunError(f"--resume --on {on}: no such run in {results}; start one without --resume")
    return dict(there[-1])


def _by_time(results: Path) -> list[Path]:
    return sorted(store.run_folders(results), key=lambda folder: folder.name)


def _newest(results: Path, here: dict[str, Any]) -> Path:
    try:
        return store.find_run(results / environment.machine_slug(here), "latest")
    except store.StoreError:
        raise RunError(f"--resume: no run of this machine in {results}; start one without --resume") from None


def _timing_alone() -> IO[bytes] | Literal[False] | None:
    """A file whose lock says that this process takes times; False: another does; None: cannot be told."""
    if sys.platform == "win32":
        return None
    try:
        file = open(Path(tempfile.gettempdir()) / f"hograd-timing-{os.getuid()}.lock", "ab")  # noqa: SIM115 (returned)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    except OSError:
        pass
    return file


def everywhere(
    plans: Sequence[Planned], results: Path, cluster: Cluster, *, console: Console | None = None, **options: Any
) -> list[Outcome]:
    """:func:`run` on each kind of machine in a cluster, on all at once; each is a run of its own.

    Raises:
        RunError: as of one of them; the others are finished first.
    """
    console = console or Console(stderr=True)
    console.print("looking at the hosts of the cluster …", markup=False)
    try:
        machines = cluster.machines(peers.packages(p.cell for p in plans))
    except EngineError as error:
        raise RunError(str(error)) from None
    if len(machines) == 1:
        return [run(plans, results, machines[0], console=console, **options)]
    with ThreadPoolExecutor(len(machines)) as pool:
        begun = [
            pool.submit(run, plans, results, each, console=_Labelled(each.environment()["machine"]), **options)
            for each in machines
        ]
        try:
            return [each.result() for each in begun]
        except KeyboardInterrupt:
            cluster.stop()
            return [each.result() for each in begun]


class _Labelled(Console):
    """Lines, no bar, that say of which machine they are."""

    def __init__(self, machine: str) -> None:
        super().__init__(stderr=True, highlight=False, force_terminal=False, soft_wrap=True)
        self._machine = machine

    def print(self, *what: Any, **how: Any) -> None:
        super().print(f"{self._machine}:", *what, **how)


def _complete(
    here: dict[str, Any], problem_files: Sequence[Path], plans: Sequence[Planned], record: Mapping[str, Any]
) -> dict[str, Any]:
    """The environment with what it takes to measure a cell again and to read all."""
    files = [str(file.resolve()) for file in problem_files]
    own = {"problem_files": files, "problems": problems.texts()} if files else {}
    return {
        **here,
        "plan": {"cells": len(plans), **own, **record},
        "metrics": metrics.as_json(),
        "facts": plan.facts(p.cell for p in plans),
    }


def _resumed(results: Path, here: dict[str, Any]) -> store.Run:
    """The newest run of this machine, if what it measured can be continued in this environment."""
    newest = _newest(results, here)
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
