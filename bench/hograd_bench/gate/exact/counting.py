"""Exact metrics of one side, counted in a worker, a cell at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hograd_bench.gate.exact import agreement, deterministic
from hograd_bench.gate.exact.baseline import Key
from hograd_bench.gate.exact.deterministic import Entry
from hograd_bench.gate.outcome import NotComparableError
from hograd_bench.gate.twins.processes import Side, Worker, WorkerError, environment

# Integer metrics of these units: smaller is better for all of them. Accuracy has its own check.
UNITS = ("B", "1", "FLOP")
WITHOUT = ("accuracy",)
Log = Callable[[str], None]


def silent(line: str) -> None:
    """Hear nothing."""


@dataclass
class Counted:
    """What a side's exact metrics are.

    Attributes:
        key: what the figures depend on besides the code.
        methods: "operator/method" of all that the side has registered.
        entries: by cell; cells that the side does not know are left out.
        preset: ids of the gate's cells by the side's own suite, where it was asked for them.
        unlisted: why it could not list them, or "".
        results: by cell, the file of its result and what the worker said of it.
    """

    key: Key
    methods: frozenset[str]
    preset: tuple[str, ...] = ()
    unlisted: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)
    results: dict[str, tuple[Path, dict[str, Any]]] = field(default_factory=dict)


def count(
    side: Side,
    cells: Sequence[str],
    keep: Path,
    log: Log = silent,
    *,
    truth: bool = False,
    preset: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Counted:
    """Exact metrics of cells on a side, each cell after the same warm-up, in one process.

    Args:
        side: what to measure.
        cells: ids.
        keep: folder for the cells' results.
        log: gets a line per ten cells.
        truth: whether to compare results with float64 truth, where there is one; what is wrong has that status.
        preset: whether to ask the side's suite for the gate's cells.
        stop: asked before every cell whether to give up.

    Returns:
        See :class:`Counted`.

    Raises:
        NotComparableError: the side has no suite or does not start.
    """
    found: Counted | None = None
    left = list(cells)
    while left and not stop():
        # A crash takes the process with it: the next worker goes on behind the cell that crashed.
        with Worker(side, environment(1, hash_seed=1, padding=0), timeout=180.0) as worker:
            greeted = _greet(worker, cells, preset)
            found = found or greeted
            while left and not stop():
                cell = left.pop(0)
                path = keep / f"{len(left)}.f64"
                try:
                    reply = worker.ask("count", cell=cell, units=UNITS, without=WITHOUT, truth=truth, result=str(path))
                except WorkerError as error:
                    if error.status != "missing":
                        found.entries[cell] = Entry(error.status, reason=str(error))
                    if error.status in ("crashed", "timeout"):
                        break
                else:
                    changed = agreement.unsteady(path, reply)
                    found.entries[cell] = entry(reply) if changed is None else unsteady(changed)
                    found.results[cell] = (path, reply)
                if len(left) % 10 == 0:
                    log(f"{side.name}: exact metrics, {len(left)} cells left")
    if found is None:
        raise NotComparableError("no cells: nothing to measure; see --cells")
    return found


def _greet(worker: Worker, cells: Sequence[str], preset: bool) -> Counted:
    side = worker.side
    try:
        said = worker.ask("hello", plugins=list(side.plugins), own_suite=side.own_suite, preset=preset)
    except WorkerError as error:
        raise NotComparableError(f"{side.name} cannot be measured ({error.status}): {error}") from error
    gpu = any("/cuda/" in cell for cell in cells)
    key = Key(said["torch"], said["machine"], said["isa"], (said["gpu"] or "no GPU") if gpu else "cpu")
    return Counted(key, frozenset(said["methods"]), tuple(said.get("preset", ())), said.get("unlisted", ""))


def unsteady(why: str) -> Entry:
    """The entry of a cell whose later calls give something else than its first."""
    return Entry(deterministic.WRONG, reason=f"a later call with the same arguments gives another result: {why}")


def entry(reply: Mapping[str, Any]) -> Entry:
    """A baseline entry from a worker's counts."""
    if reply.get("wrong"):
        return Entry(deterministic.WRONG, reason=f"the result is not float64 truth: {reply['wrong']}")
    details = reply["details"]
    peak: dict[str, int] = {}
    for row in details.get("peak_attribution") or ():
        name = _plain(f"{row['phase']}/{row['op']}")
        peak[name] = peak.get(name, 0) + int(row["bytes"])
    ops = {_plain(op): int(n) for op, n in (details.get("aten_by_op") or {}).items()}
    return Entry(deterministic.OK, dict(reply["values"]), ops, peak)


def _plain(name: str) -> str:
    """An op's or phase's name without its namespace and without characters that the baseline reserves."""
    kept = name.replace("aten::", "").removeprefix("aten.")
    return "".join("_" if c.isspace() or c in "=|" else c for c in kept)
