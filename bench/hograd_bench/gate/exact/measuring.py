"""Exact metrics of sides: what each has, and its cells measured by the engine in its own interpreter and tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from hograd_bench.cells import Cell
from hograd_bench.engine import NOT_THERE, Engine, EngineError, Limits, Local, LostError, Task, call
from hograd_bench.gate.exact.baseline import Key
from hograd_bench.gate.outcome import NotComparableError
from hograd_bench.gate.revisions.sides import Side
from hograd_bench.metrics import Metric
from hograd_bench.metrics.steadiness import KEEP
from hograd_bench.schema import Row

Log = Callable[[str], None]
SECONDS = 180.0
"""Limit of one cell: preset cells take a fraction of a second, but ``--cell`` names any."""
WORKERS = 2
"""Processes at once, whatever the machine: exact figures do not care who else runs."""


def silent(line: str) -> None:
    """Log nothing."""


@dataclass(frozen=True)
class Described:
    """What a side has.

    Attributes:
        key: what exact figures depend on besides the code.
        methods: "operator/method" of all that is registered.
        families: metric families that measure exact figures, by name.
        records: of its metrics.
        preset: ids of the gate's cells by the side's own suite, where it was asked for them.
        unlisted: why it could not list them, or "".
    """

    key: Key
    methods: frozenset[str]
    families: tuple[str, ...]
    records: dict[str, Metric]
    preset: tuple[str, ...] = ()
    unlisted: str = ""


def describe(side: Side, *, gpu: bool = False, preset: bool = False) -> Described:
    """Ask a side what it has.

    Args:
        side: whom to ask.
        gpu: whether cells run on one.
        preset: whether to ask for the gate's cells too.

    Raises:
        NotComparableError: the side has no suite, lacks a plugin or does not start.
    """
    side.check_plugins()
    try:
        said = call(side.host(), "hograd_bench.gate.suite:describe", preset)
    except LostError as error:
        raise NotComparableError(_cannot(side, error.status, error)) from error
    side.check_suite(said["suite"])
    return Described(
        Key(said["torch"], said["machine"], said["isa"], (said["gpu"] or "no GPU") if gpu else "cpu"),
        frozenset(said["methods"]),
        tuple(said["families"]),
        {name: Metric.from_dict(record) for name, record in said["metrics"].items()},
        tuple(said.get("preset", ())),
        said.get("unlisted", ""),
    )


def _cannot(side: Side, status: str, error: Exception) -> str:
    lacking = "no suite" if "No module named" in str(error) else status
    hint = f"; is {side.python} a Python interpreter?" if status == "failed" else ""
    return f"{side.name} cannot be measured ({lacking}): {error}{hint}"


@dataclass(frozen=True)
class Wanted:
    """Cells of one side.

    Attributes:
        side: where.
        about: what the side has.
        cells: ids; those that the side lacks get no row.
        keep: folder for their results.
    """

    side: Side
    about: Described
    cells: Sequence[str]
    keep: Path

    def tasks(self) -> list[Task]:
        """For the engine."""
        families = tuple(dict.fromkeys([*self.about.families, "steadiness"]))
        host = self.side.host(**{KEEP: str(self.keep)})
        return [Task(Cell.parse(cell), families, host) for cell in self.cells]


def measure(wanted: Iterable[Wanted], log: Log = silent, engine: Engine | None = None) -> list[dict[str, Row]]:
    """The rows of each side's cells by cell; both sides at once.

    Args:
        wanted: what to measure where.
        log: gets a line per ten cells.
        engine: runs the cells; local processes where None.

    Raises:
        NotComparableError: processes of a side cannot start.
    """
    asked = [(one.side, one.tasks()) for one in wanted]
    rows: list[dict[str, Row]] = [{} for _ in asked]
    place = {(task.host, task.cell): number for number, (_, tasks) in enumerate(asked) for task in tasks}
    left = [len(tasks) for _, tasks in asked]
    turns = chain.from_iterable(zip_longest(*(tasks for _, tasks in asked)))
    try:
        for event in (engine or Local(WORKERS, Limits(SECONDS))).run([task for task in turns if task is not None]):
            if event.row is None:
                continue
            number = place[event.task.host, event.task.cell]
            left[number] -= 1
            if left[number] % 10 == 0:
                log(f"{asked[number][0].name}: exact metrics, {left[number]} cells left")
            if event.row["status"] != "skipped" or not str(event.row["reason"]).startswith(NOT_THERE):
                rows[number][event.row["cell"]] = event.row
    except EngineError as error:
        names = " or ".join(side.name for side, _ in asked)
        raise NotComparableError(f"{names} cannot be measured: {error}") from error
    return rows
