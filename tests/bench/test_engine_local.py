"""Who runs when, and what a death costs: the engine with a suite of ten lines in the place of hograd's."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from engine_fakes import FAMILIES, log, suite, tasks
from hograd_bench import driver, environment, schema, store
from hograd_bench.cells import Cell
from hograd_bench.engine import Child, EngineError, Event, Host, Limits, Local, LostError, Task, call, called
from hograd_bench.plan import Planned


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return suite(tmp_path)


def statuses(events: Iterator[Event]) -> list[tuple[str, str]]:
    return [(event.task.cell.problem, event.row["status"]) for event in events if event.row is not None]


@pytest.mark.slow
def test_one_worker_keeps_the_order_and_shares_a_process(host: Host) -> None:
    given = [*tasks(host, "a", "b", families=("time",)), *tasks(host, "c"), *tasks(host, "d", "e", alone=True)]
    events = list(Local().run(given))
    assert [e.task for e in events] == [t for task in given for t in (task, task)]
    assert [e.row is None for e in events] == [True, False] * 5
    assert [line.split("/")[2] for line in log(host) if line.startswith("begin")] == list("abcde")
    assert log(host).count("process") == 3


def test_two_workers_run_at_once_what_is_not_timed(host: Host) -> None:
    given = [*tasks(host, "timed", "timed", families=("time",)), *tasks(host, "meets", "meets", "a", "b", "c")]
    assert sorted(statuses(Local(2).run(given))) == sorted((task.cell.problem, "ok") for task in given)
    lines = [line for line in log(host) if line != "process"]
    beside: set[str] = set()
    running: set[str] = set()
    for what, cell in (line.split(" ") for line in lines):
        running = running | {cell} if what == "begin" else running - {cell}
        if len(running) > 1:
            beside |= running
    assert sum("/meets/" in cell for cell in beside) == 2
    assert not any("/timed/" in cell for cell in beside)
    assert log(host).count("process") == 2


@pytest.mark.slow
def test_each_way_to_end_is_a_status_and_the_next_cell_runs(host: Host) -> None:
    given = tasks(host, "a", "exits", "b", "oom", "leaves", "foreign", "waits", "c")
    rows = [event.row for event in Local(limits=Limits(seconds=3)).run(given) if event.row is not None]
    ended = [(row["status"], row.get("reason")) for row in rows]
    assert [status for status, _ in ended] == ["ok", "crashed", "ok", "oom", "ok", "skipped", "timeout", "ok"]
    assert ended[1][1] == "its process ended with exit code 7: last words"
    assert ended[5][1] == "not on this host: no such problem"
    assert ended[6][1] == "over the limit of 3 s a cell"


def test_what_is_no_longer_wanted_is_not_started(host: Host) -> None:
    events = Local().run([*tasks(host, "a", "b", "c"), *tasks(host, "d", alone=True)], lambda t: t.cell.problem in "ac")
    assert statuses(events) == [("a", "ok"), ("c", "ok")]
    assert log(host).count("process") == 1


def test_closing_the_iterator_ends_the_processes(host: Host) -> None:
    events = Local().run(tasks(host, "waits"))
    assert next(events).row is None
    events.close()  # type: ignore[attr-defined]


def test_a_process_that_never_asks_is_an_error_with_its_last_words(host: Host) -> None:
    Path(host.roots[0], "hograd_bench", "engine", "__main__.py").write_text("raise SystemExit('why')", encoding="utf-8")
    with pytest.raises(EngineError, match=r"before the first of its 2 cells: .*exit code 1: why"):
        list(Local().run(tasks(host, "a", "b")))
    Path(host.roots[0], "hograd_bench", "engine", "__main__.py").write_text("print('hello')", encoding="utf-8")
    with pytest.raises(EngineError, match="got 'hello', no line of JSON"):
        list(Local().run(tasks(host, "a")))
    with pytest.raises(EngineError, match="no_such_python cannot be started"):
        list(Local().run(tasks(Host(python="/no_such_python"), "a")))


def test_a_function_of_the_host_with_its_variables(host: Host) -> None:
    there = Host(roots=host.roots, variables={"COLOUR": "blue", "HOME": None})
    assert call(there, "module:name", 1, "two") == ["module:name", [1, "two"], "blue", None]
    Path(host.roots[0], "hograd_bench", "engine", "__main__.py").write_text("raise SystemExit('why')", encoding="utf-8")
    with pytest.raises(LostError, match="module:name: its process ended with exit code 1: why"):
        call(host, "module:name")


@pytest.mark.slow
def test_the_process_of_a_call_goes_on_with_cells(host: Host) -> None:
    with called(host, "module:name", 1) as (result, process):
        assert result[:2] == ["module:name", [1]]
        engine = Local(limits=Limits(memory=2**40), ready=process)
        assert statuses(engine.run(tasks(host, "a", "exits", "b"))) == [("a", "ok"), ("exits", "crashed"), ("b", "ok")]
    assert log(host).count("process") == 2  # one more after the death of the first
    assert statuses(engine.run(tasks(host, "c"))) == [("c", "ok")]
    with called(host, "module:name") as (_, process):
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="a process ended before the first of its 1 cells"):
            list(Local(ready=process).run(tasks(host, "a")))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of living processes are Linux's")
def test_a_limit_on_memory_is_only_lowered() -> None:
    tell = (
        "import resource, sys\nfor _ in sys.stdin:\n    print(resource.getrlimit(resource.RLIMIT_DATA)[0], flush=True)"
    )
    with Child([sys.executable, "-c", tell], memory=2**31) as child:
        found = []
        for memory in (2**40, 2**30, None):
            child.limit(memory)
            child.send("")
            found.append(child.receive(60))
    assert found == [2**31, 2**30, 2**30]


def test_a_child_that_is_asked_and_answers() -> None:
    echo = "import sys\nfor line in sys.stdin:\n    print(line, end='', flush=True)\n    'stop' in line and sys.exit(3)"
    with Child([sys.executable, "-c", echo]) as child:
        child.send({"big": "x" * 100_000})
        assert child.receive(60)["big"] == "x" * 100_000
        with pytest.raises(LostError, match="no answer within 0 s") as lost:
            child.receive(0)
        assert lost.value.status == "timeout"
        child.send("stop")
        assert child.receive(60) == "stop"
        with pytest.raises(LostError, match=r"exit code 3: os\._exit") as lost:
            child.receive(60)
        assert lost.value.status == "crashed"
        child.send("to nobody")


class Scripted:
    """An engine that settles every task as told, by cell and family, all started before any settles."""

    def __init__(self, rows: dict[tuple[str, str], dict[str, Any]], *, at_once: bool = False) -> None:
        self.rows, self.at_once, self.ran = rows, at_once, []  # type: ignore[var-annotated]

    def run(self, tasks: Sequence[Task], wanted: Any = None) -> Iterator[Event]:
        if self.at_once:
            yield from (Event(task) for task in tasks)
        for task in tasks:
            if self.at_once or wanted(task):
                self.ran.append(task)
                yield from [] if self.at_once else [Event(task)]
                told = self.rows.get((task.cell.problem, task.families[0]), {"status": "ok"})
                yield Event(task, schema.row(task.cell, **told))


@pytest.fixture
def run(tmp_path: Path) -> store.Run:
    return store.create_run(tmp_path / "results", environment.record())


def hvp(problem: str, n: int) -> Planned:
    return Planned(Cell("derivative_vector_product", "double_backward", problem, n), FAMILIES)


def written(run: store.Run) -> list[tuple[int, str]]:
    return [(row["n"], row["status"]) for row in store.read_rows(run.path)]


@pytest.mark.parametrize("status", ["oom", "timeout", "crashed"])
def test_larger_cells_of_what_ended_badly_are_skipped(run: store.Run, status: str) -> None:
    engine = Scripted({("mlp", "accuracy"): {"status": status, "reason": "so"}})
    driver.execute([hvp("mlp", 8), hvp("mlp", 4), hvp("mlp", 16)], run, engine)
    assert written(run) == [(8, status), (16, "skipped"), (4, status)]
    assert [task.cell.n for task in engine.ran] == [8, 4]


def test_a_larger_cell_that_runs_already_is_let_finish(run: store.Run) -> None:
    engine = Scripted({("mlp", "accuracy"): {"status": "oom", "reason": "so"}}, at_once=True)
    driver.execute([hvp("mlp", 8), hvp("mlp", 16)], run, engine)
    assert written(run) == [(8, "oom"), (16, "oom")]


def test_known_failures_run_alone_and_last(run: store.Run) -> None:
    engine = Scripted({})
    driver.execute([hvp("mlp", n) for n in (2, 3, 4)], run, engine, known_failures={hvp("mlp", 3).cell.id})
    assert [(task.cell.n, task.alone) for task in engine.ran] == [(2, False), (4, False), (3, True)]


def test_a_figure_of_a_process_of_its_own_is_in_the_cells_row(run: store.Run) -> None:
    asked = {"status": "ok", "metrics": {"peak_bytes": 3}, "missing": {"peak_rss_bytes": "not asked for"}}
    rows = {
        ("mlp", "accuracy"): asked,
        ("mlp", "resident"): {"status": "ok", "metrics": {"peak_rss_bytes": 5}, "missing": {"unseen_bytes": "blind"}},
        ("quadratic", "accuracy"): asked,
        ("quadratic", "resident"): {"status": "timeout", "reason": "late"},
        ("raises", "accuracy"): {"status": "failed", "reason": "so"},
    }
    engine = Scripted(rows)
    plans = [hvp("mlp", 2), hvp("quadratic", 2), hvp("mlp", 3)]
    driver.execute(plans, run, engine, apart=("resident",))
    first, second, third = store.read_rows(run.path)
    assert first["metrics"] == {"peak_bytes": 3, "peak_rss_bytes": 5, "unseen_bytes": None}
    assert first["missing"] == {"unseen_bytes": "blind"}
    assert second["status"] == third["status"] == "ok"
    assert second["missing"]["peak_rss_bytes"] == "its own process ended as timeout: late"
    apart = [task for task in engine.ran if task.families == ("resident",)]
    assert len(apart) == 3
    assert all(task.alone and task.host.variables["MKL_DISABLE_FAST_MM"] == "1" for task in apart)


@pytest.mark.slow
def test_within_tests_of_several_processes_cells_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--benchmark-disable")
    cell = Cell("gradient", "autograd", "rosenbrock", 4, 1)
    (row,) = (event.row for event in Local().run([Task(cell, ("time",), Host())]) if event.row is not None)
    assert row["metrics"]["seconds_min"] > 0


def test_a_batch_is_json(host: Host) -> None:
    from hograd_bench.engine import child

    given = child.batch(Host(plugins=("p",), problem_files=("f.py",)), tasks(host, "a"))
    assert json.loads(json.dumps(given)) == given
