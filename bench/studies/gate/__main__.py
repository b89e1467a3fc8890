"""The gate's own study: ``PYTHONPATH=bench python -m studies.gate`` (session ``gate_study``).

``table`` (the default) computes the table of docs/gate.md from the recorded pairs; ``record`` makes new ones on this
machine; ``exact`` plants into the exact gate. Recording takes hours of nobody's time and gains from the machine
being as noisy as it usually is: do not quiet it for the study.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import random
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from hograd_bench.gate import preset, run
from hograd_bench.gate.exact.findings import findings
from hograd_bench.gate.exact.measuring import Wanted, describe, measure
from hograd_bench.gate.revisions import repository, sides, trees
from hograd_bench.gate.revisions.sides import Side, Twin
from hograd_bench.gate.statistics.policy import Policy
from hograd_bench.gate.twins import loop
from hograd_bench.schema import Row
from hograd_bench.scratch import scratch

from studies.gate import recording
from studies.gate.page import GUIDE, render, write_between
from studies.gate.recording import Study, WholeRun

DATA = Path("docs/data/gate_pairs.jsonl.gz")
RECIPES = Path("tests/recipes")
PLANTS = {"extra_vector": "peak_bytes", "extra_call": "aten_calls", "extra_node": "graph_nodes"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
Revision = Annotated[str, typer.Option(help="commit that both sides run")]
Data = Annotated[Path, typer.Option(help="the recorded study")]


def _load() -> float:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def _machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _log(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def _existing(path: Path) -> Study:
    return recording.read(path) if path.is_file() else Study(_machine())


def _twins() -> list[Twin]:
    return [Twin(c.id, c.id, c.id) for c in preset.timed(preset.cells())]


def _sides(revision: str) -> tuple[Side, Side]:
    """Twice the same commit: files that change while the study records would be a difference between the sides."""
    top = repository.repository(Path.cwd())
    same = sides.revision(top, revision, trees.cache_folder(top), python=sys.executable)
    return replace(same, name="A"), replace(same, name="B")


def _slowed(side: Side, factor: float, cell: str = "*/*") -> Side:
    """The side with its kernels, or the kernel of one cell, slowed down; the same where the factor is 1."""
    os.environ["HOGRAD_PLANT"] = "/".join(cell.split("/")[:2])
    os.environ["HOGRAD_PLANT_FACTOR"] = str(factor)
    return replace(side, plugins=(str(RECIPES / "slower.py"),)) if factor > 1 else side


@app.command()
def record(
    pairs: Annotated[int, typer.Option(help="pairs of identical sides")] = 60,
    planted: Annotated[int, typer.Option(help="pairs with each planted slowdown (1.05 and 1.10, in every cell)")] = 30,
    seconds: Annotated[float, typer.Option(help="time that a pair's cells share; the gate takes 6 s")] = 12.0,
    revision: Revision = "HEAD",
    data: Data = DATA,
) -> None:
    """Record process pairs and append them to the study, interleaved: identical, 1.05, 1.10, identical, ..."""
    study = _existing(data)
    twins, (a, b) = _twins(), _sides(revision)
    todo = [1.0] * pairs + [1.05] * planted + [1.10] * planted
    random.Random(len(study.pairs)).shuffle(todo)
    with scratch() as folder, sides.mirrored(a, b) as (left, right):
        for number, factor in enumerate(todo, start=1):
            load, start = _load(), time.monotonic()
            made = loop.Loop(left, _slowed(right, factor), random.Random(run.draw_seed()), folder)
            made.seconds_per_pair = seconds
            seen = made.pair(twins)
            for finding in made.found.findings:
                _log(f"{finding.kind} {finding.cell}: {finding.text}")
            if not made.found.starts:
                continue
            study.pairs.append(recording.recorded(seen, factor, load, made.found.starts[0]))
            recording.write(data, study)
            _log(f"pair {number} of {len(todo)}: x{factor:g}, load {load:g}, {time.monotonic() - start:.0f} s")


@app.command()
def runs(
    count: Annotated[int, typer.Option(help="whole runs of the timing gate")] = 5,
    factor: Annotated[float, typer.Option(help="slowdown planted in one cell, another each time")] = 1.0,
    busy: Annotated[float, typer.Option(help="keep every core busy for that many seconds, from the tenth on")] = 0.0,
    revision: Revision = "HEAD",
    data: Data = DATA,
) -> None:
    """Make real whole runs on identical code and append their verdicts to the study."""
    study = _existing(data)
    twins, (a, b) = _twins(), _sides(revision)
    for number in range(count):
        planted = twins[(7 * len(study.runs)) % len(twins)].name if factor > 1 else ""
        load = _load()
        stop = _busy(busy)
        try:
            outcome, timed = run.sides_against(
                a, _slowed(b, factor, planted), twins, Policy(), seed=run.draw_seed(), counts=False, log=_log,
            )  # fmt: skip
        finally:
            stop.set()
        verdicts = {c: str(v.verdict) for c, v in timed.verdicts.items()}
        made = WholeRun(factor, planted, busy, verdicts, outcome.pairs, round(outcome.seconds, 1), load)
        study.runs.append(made)
        recording.write(data, study)
        _log(f"run {number + 1} of {count}: exit {int(outcome.exit)}, {made.pairs} pairs, {made.seconds:.0f} s, "
              f"false alarms {made.alarms or 'none'}, plant {verdicts.get(planted, 'none')}")  # fmt: skip


def _spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def _busy(seconds: float) -> threading.Event:
    """Start a process per core that spins for ``seconds``, ten seconds from now; the event ends them early."""
    stop = threading.Event()

    def spin() -> None:
        if seconds <= 0 or stop.wait(10.0):
            return
        context = multiprocessing.get_context("spawn")
        spinners = [context.Process(target=_spin, args=(seconds,), daemon=True) for _ in range(os.cpu_count() or 1)]
        for process in spinners:
            process.start()
        stop.wait(seconds)
        for process in spinners:
            process.terminate()
            process.join()

    threading.Thread(target=spin, daemon=True).start()
    return stop


@app.command()
def exact(data: Data = DATA) -> None:
    """Plant one more vector, ATen call and graph node into every kernel and see in how many cells they are caught."""
    study = _existing(data)
    tree = sides.working_tree(repository.repository(Path.cwd()))
    about = describe(tree)

    def measured(side: Side, cells: Sequence[str]) -> dict[str, Row]:
        with scratch() as folder:
            return measure([Wanted(side, about, cells, folder)], _log)[0]

    base = measured(tree, [c.id for c in preset.cells()])
    ok = {cell: row for cell, row in base.items() if row["status"] == "ok"}
    found = findings(base, measured(tree, list(base)), about.records)
    study.exact["none (identical code)"] = (len(ok), len({f.cell for f in found}))
    os.environ["HOGRAD_PLANT"] = "*/*"
    for plant, metric in PLANTS.items():
        head = measured(replace(tree, plugins=(str(RECIPES / f"{plant}.py"),)), list(ok))
        found = findings(ok, head, about.records)
        caught = {f.cell for f in found if f.kind == "growth" and f.metric == metric}
        for cell in sorted(set(ok) - caught):
            _log(f"{plant} missed in {cell}: {[f.text for f in found if f.cell == cell]}")
        study.exact[plant] = (len(ok), len(caught))
    recording.write(data, study)


@app.command()
def table(
    resampled: Annotated[int, typer.Option(help="resampled runs of identical code")] = 2000,
    data: Data = DATA,
    into: Annotated[Path, typer.Option(help="document whose table is replaced")] = GUIDE,
    check: Annotated[bool, typer.Option("--check", help="only print; leave the document alone")] = False,
) -> None:
    """Compute the table from the recorded study and put it into docs/gate.md."""
    text = render(recording.read(data), resampled)
    print(text)
    if not check:
        write_between(into, text)


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        table(2000, DATA, GUIDE, False)


if __name__ == "__main__":
    app()
