"""Beginning, end, and progress between them; what becomes of each cell is driver.py's."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from hograd_bench import driver, known, measure, metrics, peers, plan, problems, scratch, store
from hograd_bench.driver import Event, Isolation
from hograd_bench.engine import Cluster, Engine, EngineError, Host, Local
from hograd_bench.plan import Planned
from hograd_bench.run._display import Display, Labelled, signs_of_life
from hograd_bench.run._outcome import Outcome, RunError
from hograd_bench.run._resuming import known_failures, resumed

if sys.platform != "win32":
    import fcntl


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
    engine = engine or Local()
    recording = "recording the environment and the machine's ceilings …"
    console.print(recording, markup=False)
    try:
        with signs_of_life(console, lambda: recording):
            here = engine.environment(peers.packages(p.cell for p in plans))
            if resume:
                opened = resumed(results, here)
            else:
                described = {**_complete(here, problem_files, plans, record or {}), "ceilings": engine.ceilings()}
                opened = store.create_run(results, described)
            opened.hold()
            bad = known_failures(results)
    except store.StoreError as error:
        raise RunError(str(error)) from None
    outcome, started = Outcome(opened.path), time.monotonic()
    try:
        done = opened.finished_cells()
        timed = isinstance(engine, Local) and any("time" in p.families for p in plans)
        with (
            _taking_times(console) if timed else contextlib.nullcontext(),
            Display([p for p in plans if p.cell.id not in done], console) as display,
        ):

            def settled(event: Event) -> None:
                outcome.count(event)
                display.settled(event)

            driver.execute(
                plans,
                opened,
                engine,
                settled,
                on_start=display.started,
                isolate=isolate,
                apart=measure.APART if resident else (),
                known_failures=bad,
                host=Host(problem_files=tuple(str(path.resolve()) for path in problem_files)),
            )
    except KeyboardInterrupt:
        outcome.interrupted = True
    except (EngineError, store.StoreError) as error:
        raise RunError(str(error)) from None
    finally:
        opened.close()
    outcome.seconds = time.monotonic() - started
    if os.environ.get(known.CACHE):
        known.remember(f"run-{opened.path.name}", outcome.frame)
    return outcome


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
            pool.submit(run, plans, results, each, console=Labelled(each.environment()["machine"]), **options)
            for each in machines
        ]
        try:
            return [each.result() for each in begun]
        except KeyboardInterrupt:
            cluster.stop()
            return [each.result() for each in begun]


@contextlib.contextmanager
def _taking_times(console: Console) -> Iterator[None]:
    """Hold this user's lock on taking times on this machine; say so where another run has it."""
    with contextlib.ExitStack() as held:
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # then it cannot be told
                name = f"{scratch.PREFIX}timing-{os.getuid()}.lock"
                file = held.enter_context(open(Path(tempfile.gettempdir()) / name, "ab"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    console.print(
                        "hograd: another run is taking times on this machine: each disturbs the other's; exact "
                        "figures are safe", style="yellow", markup=False,
                    )  # fmt: skip
        yield


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
