"""What runs on a node of a cluster, and what is made of its answers: without Ray."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_fakes import beside, log, suite, tasks
from hograd_bench import environment, run, schema, store
from hograd_bench.cells import Cell
from hograd_bench.cli import app
from hograd_bench.engine import EngineError, Event, Host, Limits, Task
from hograd_bench.engine import ray as engine
from hograd_bench.engine._site import Actor, salvage
from hograd_bench.plan import Planned
from typer.testing import CliRunner


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return suite(tmp_path)


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Actor]:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    made = Actor("t", 1, Limits(seconds=60), {}, {})
    yield made
    made.session.close()


def step(actor: Actor, given: dict[int, Task], unwanted: list[int]) -> tuple[list[int], list[tuple[int, str]]]:
    begun, rows = actor.step(given, unwanted)
    return begun, [(number, row["status"]) for number, row in rows]


def test_a_row_that_others_depend_on_comes_back_at_once(actor: Actor, host: Host) -> None:
    given = dict(enumerate(tasks(host, "a", "oom", "b", "c")))
    assert step(actor, given, []) == ([0, 1], [(0, "ok"), (1, "oom")])
    assert step(actor, {9: tasks(host, "d")[0]}, [2]) == ([3, 9], [(3, "ok"), (9, "ok")])
    assert log(host).count("process") == 2  # after an oom a new one, which goes on from step to step
    assert step(actor, {}, [3]) == ([], [])
    assert set(salvage("t")) == set()


def test_what_a_dead_actor_leaves_says_what_ran(actor: Actor, host: Host, tmp_path: Path) -> None:
    actor.step(dict(enumerate(tasks(host, "a", "b"))), [])
    journal = tmp_path / "hograd-t" / "journal"
    journal.write_text(journal.read_text(encoding="utf-8") + "[7, null]\n[8, nu", encoding="utf-8")
    left = salvage("t")
    assert [(number, row and row["status"]) for number, row in left.items()] == [(0, "ok"), (1, "ok"), (7, None)]
    assert not journal.parent.exists()
    assert salvage("t") == {}


def test_a_file_of_problems_is_used_in_its_place_or_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (tmp_path / "mine.py").write_text("1", encoding="utf-8")
    files = {str(tmp_path / "mine.py"): "1", str(tmp_path / "absent" / "mine.py"): "2"}
    same, copied = Actor("f", 1, Limits(), {}, files).files.values()
    assert same == str(tmp_path / "mine.py")
    assert Path(copied).read_text(encoding="utf-8") == "2"
    assert Path(copied).name == "mine.py"


def test_a_host_without_a_working_suite_is_an_error(actor: Actor, host: Host) -> None:
    Path(host.roots[0], "hograd_bench", "engine", "__main__.py").write_text("raise SystemExit('why')", encoding="utf-8")
    assert "exit code 1: why" in actor.step({0: tasks(host, "a")[0]}, [])


def test_cells_take_as_many_slots_as_threads(actor: Actor, host: Host) -> None:
    actor.session.slots = 2
    wide = [replace(task, cell=replace(task.cell, threads=2)) for task in tasks(host, "w", "w", "w", "w")]
    numbers = dict(enumerate(wide))
    settled: list[int] = []
    while len(settled) < len(wide):
        settled += [number for number, _ in actor.step(numbers, [])[1]]
        numbers = {}
    assert beside(host) == set()


def test_hosts_of_one_kind_are_one_environment() -> None:
    def found(bandwidth: float, rate: float | None, load: int) -> dict[str, Any]:
        return {"machine": "m", "system": {"load": load}, "ceilings": {"cpu": {"1": {"copy": bandwidth, "mm": rate}}}}

    one = engine._of_kind([found(1.0, 3.0, 5), found(2.0, None, 6)])
    assert one["ceilings"] == {"cpu": {"1": {"copy": 2.0, "mm": 3.0}}}
    assert one["system"] == {"load": 5}
    assert one["hosts"]["2"] == {"system": {"load": 6}, "ceilings": {"cpu": {"1": {"copy": 2.0, "mm": None}}}}
    assert "machine" not in one["hosts"]["1"]


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"pip install 'hograd\[ray\]'"):
        engine.Cluster()


def test_an_address_needs_ray() -> None:
    said = CliRunner().invoke(app, ["run", "--address", "auto"])
    assert said.exit_code == 2
    assert "add it, or leave the address out" in said.output
    assert "expected local or ray" in CliRunner().invoke(app, ["run", "--on", "slurm"]).output


class Machines:
    """A cluster of kinds of machine that settle every cell as told."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def machines(self, packages: Any) -> list[Any]:
        return [Machine(name) for name in self.names]


class Machine:
    def __init__(self, name: str) -> None:
        self.name = name

    def environment(self, packages: Any = ()) -> dict[str, Any]:
        return {**environment.record(packages), "machine": self.name}

    def ceilings(self) -> dict[str, Any]:
        return {}

    def run(self, given: Any, wanted: Any) -> Iterator[Event]:
        for task in given:
            yield Event(task)
            yield Event(task, schema.row(task.cell, "ok", metrics={"peak_bytes": len(self.name)}))


@pytest.mark.slow
def test_each_kind_of_machine_has_a_run_of_all_cells(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plans = [Planned(Cell("derivative_vector_product", "double_backward", "quadratic", n), ("memory",)) for n in (2, 3)]
    record = {"asked": {"on": "ray", "only": "quadratic"}}
    outcomes = run.everywhere(plans, tmp_path, Machines("big", "small"), record=record)  # type: ignore[arg-type]
    assert [outcome.path.parent.name for outcome in outcomes] == ["big", "small"]
    rows = store.load(tmp_path, strict=True).rows
    found = {(row["machine"], row["n"], row["peak_bytes"]) for row in rows.to_dict("records")}
    assert found == {("big", 2, 3), ("big", 3, 3), ("small", 2, 5), ("small", 3, 5)}
    assert all(line.startswith(("looking", "big:", "small:")) for line in capfd.readouterr().err.splitlines())
    assert run.recorded(tmp_path, "ray")["asked"] == record["asked"]
    with pytest.raises(run.RunError, match="no run of this machine"):
        run.recorded(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(run.RunError, match="--resume --on ray: no such run"):
        run.recorded(tmp_path / "empty", "ray")
