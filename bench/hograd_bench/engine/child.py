"""What a process does with a batch of tasks: pytest-benchmark on the sweep.

A batch is JSON. ``python -m hograd_bench.engine`` runs this with the interpreter and the suite of a host, which may be
another revision's.

Messages out: {"ask": i}, task i is next and waits for true (go on) or false (leave it); then {"row": {...}}, or
{"unknown": "why"} where this host's suite has no such cell. A batch with "call" is answered by {"ready": true} once
what it needs is loaded, and {"result": ...}.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
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
    wanted = [{"cell": task.cell.id, "families": list(task.families)} for task in tasks]
    return {"plugins": list(host.plugins), "problem_files": list(host.problem_files), "tasks": wanted}


def load(given: dict[str, Any]) -> None:
    """Register what the batch's plugins and problem files declare."""
    from hograd_bench import own_files, problems

    for name in given["plugins"]:
        if not name.endswith(".py"):
            importlib.import_module(name)
            continue
        path = next((root / name for root in map(Path, [*sys.path, "."]) if (root / name).is_file()), Path(name))
        own_files.load(path, "hograd_plugin")
    for file in given["problem_files"]:
        problems.load_file(file)


def work(given: dict[str, Any], ask: Callable[[int], bool], emit: Callable[[dict[str, Any]], None]) -> None:
    """Measure the tasks of a batch.

    Args:
        given: from :func:`batch`.
        ask: whether to go on with task i; called right before each.
        emit: takes each message that follows a yes; the next task begins after it returns.
    """
    import pytest

    from hograd_bench.sweeps import plugin

    load(given)
    plans = []
    for i, task in enumerate(given["tasks"]):
        planned = known(task)
        if not isinstance(planned, str):
            plans.append((i, planned))
        elif ask(i):
            emit({"unknown": planned})
    sweeps = Path(plugin.__file__).parent
    options = ["-c", str(sweeps / "pytest.ini"), str(sweeps), *ROUNDS, "--benchmark-quiet", "--benchmark-columns=min"]
    if plans:
        pytest.main(options, plugins=[plugin.Batch(plans, ask, lambda row: emit({"row": row}))])


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


def main() -> None:
    """Read a batch from the file named, and talk through the pipes."""
    die_with_parent()
    # What libraries print must not mix with the messages, and pytest puts its own in the place of stdin.
    requests, answers = os.dup(0), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    os.register_at_fork(after_in_child=lambda: _silence(requests, answers.fileno()))

    def emit(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")

    def ask(number: int) -> bool:
        emit({"ask": number})
        return bool(json.loads(os.read(requests, 64) or b"false"))

    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if "call" in given:
        load(given)
        module, _, name = given["call"].partition(":")
        function = getattr(importlib.import_module(module), name)
        emit({"ready": True})
        emit({"result": function(*given["arguments"])})
    else:
        work(given, ask, emit)


def _silence(*pipes: int) -> None:
    """A process that measured code forks has no say here: it would ask and answer beside this one."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for pipe in pipes:
        os.dup2(nothing, pipe)
    os.close(nothing)
