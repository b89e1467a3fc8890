"""What a process does with a batch of tasks: pytest-benchmark on the sweep.

A batch is JSON. ``python -m hograd_bench.engine`` runs this with the interpreter and the suite of a host, which may be
another revision's.

Messages out: {"ask": i}, task i is next and waits for true (go on) or false (leave it); then {"row": {...}}, or
{"unknown": "why"} where this host's suite has no such cell; {"more": true} after the last, which waits for a list of
further tasks.

A batch with "call" is answered by {"loading": file} before each problem file, {"ready": true} once all are loaded, or
{"refused": "why"}, and {"result": ...}; then the process ends with its input, or goes on with a batch that comes there.
Without a function there, calls are lines of JSON, answered one by one.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hograd_bench.engine._interface import Host, Task
from hograd_bench.engine._process import die_with_parent

ROUNDS = (
    "--benchmark-disable-gc",
    "--benchmark-min-rounds=5",
    "--benchmark-max-time=0.05",
    "--benchmark-warmup=off",
)
"""How pytest-benchmark times a cell: rounds for 50 ms but at least five, collector off; the warm-up was the check
against truth."""


def batch(host: Host, tasks: Sequence[Task] = ()) -> dict[str, Any]:
    """What a child of that host needs to know, as JSON."""
    return {"plugins": list(host.plugins), "problem_files": list(host.problem_files), "tasks": described(tasks)}


def described(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Tasks as JSON."""
    return [{"cell": task.cell.id, "families": list(task.families)} for task in tasks]


def load(given: dict[str, Any], beginning: Callable[[str], None] = lambda file: None) -> None:
    """Register what the batch's plugins and problem files declare; ``beginning`` hears of each of these files."""
    from hograd_bench import own_files, problems

    for name in given["plugins"]:
        if not name.endswith(".py"):
            importlib.import_module(name)
            continue
        path = next((root / name for root in map(Path, [*sys.path, "."]) if (root / name).is_file()), Path(name))
        own_files.load(path, "hograd_plugin")
    for file in given["problem_files"]:
        beginning(file)
        problems.load_file(file)


def work(
    given: dict[str, Any],
    ask: Callable[[int], bool],
    emit: Callable[[dict[str, Any]], None],
    more: Callable[[], list[dict[str, Any]]] = list,
) -> None:
    """Measure the tasks of a batch.

    Args:
        given: from :func:`batch`.
        ask: whether to go on with task i; called right before each.
        emit: takes each message that follows a yes; the next task begins after it returns.
        more: further tasks, counted on from the last; none: it is over.
    """
    import pytest

    from hograd_bench.metrics._allocations import settled
    from hograd_bench.sweeps import plugin

    load(given)
    numbers = itertools.count()

    def batches() -> Iterator[list[tuple[int, Any]]]:
        tasks = given["tasks"]
        while tasks:
            plans = []
            for task, i in zip(tasks, numbers, strict=False):  # in this order, that no number is lost
                planned = known(task)
                if not isinstance(planned, str):
                    plans.append((i, planned))
                elif ask(i):
                    emit({"unknown": planned})
            if plans:
                yield plans
            tasks = more()

    left = batches()
    first = next(left, None)
    sweeps = Path(plugin.__file__).parent
    options = ["-c", str(sweeps / "pytest.ini"), str(sweeps), *ROUNDS, "--benchmark-quiet", "--benchmark-columns=min"]
    if first is not None:
        with settled():
            pytest.main(options, plugins=[plugin.Batch(first, ask, lambda row: emit({"row": row}), left)])


def known(task: dict[str, Any]) -> Any:
    """The planned cell, or why this suite has none."""
    import hograd_core
    from hograd_bench import peers, problems
    from hograd_bench.plan import Planned

    try:
        planned = Planned.from_json({"skip": None, **task})
        operator, _ = hograd_core.resolve(planned.cell.operator)
        peers.find(operator, planned.cell.method, planned.cell.order)
        problems.get(planned.cell.problem)
    except (KeyError, ValueError) as error:
        return str(error).strip("'\"")
    return planned


def _function(name: str) -> Callable[..., Any]:
    """What ``module:name`` names."""
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def _end_copy() -> None:
    """In a copy of this process that a cell's function forked: end it, or it measures all that is left once more."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in ("multiprocessing", "subprocess", "concurrent"):
            return  # these know what their copies do
        frame = frame.f_back  # type: ignore[assignment]
    os._exit(0)


def main() -> None:
    """Read a batch from the file named, and talk through the pipes."""
    die_with_parent()
    os.register_at_fork(after_in_child=_end_copy)
    # Of tests that asked for this: their options are not the sweep's, and under xdist pytest-benchmark times nothing.
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]
    # What libraries print must not mix with the messages, and pytest puts its own in the place of stdin.
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    own = os.getpid()

    def emit(message: dict[str, Any]) -> None:
        if os.getpid() != own:  # a fork that a problem left running: the cells are its parent's
            os._exit(0)
        answers.write(json.dumps(message) + "\n")

    def ask(number: int) -> bool:
        emit({"ask": number})
        return bool(json.loads(requests.readline() or "false"))

    def more() -> list[dict[str, Any]]:
        emit({"more": True})
        return list(json.loads(requests.readline() or "[]"))

    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if "call" in given:
        try:
            load(given, lambda file: emit({"loading": file}))
        except ValueError as error:
            emit({"refused": str(error)})
            return
        if given["call"]:
            _function(given["call"])  # what it imports is not in the time of the call
        emit({"ready": True})
        if not given["call"]:
            for each in map(json.loads, requests):
                emit({"result": _function(each["call"])(*each["arguments"])})
            return
        emit({"result": _function(given["call"])(*given["arguments"])})
        given = json.loads(requests.readline() or "null")
    if given is not None:
        work(given, ask, emit, more)
