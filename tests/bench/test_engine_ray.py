"""Sweeps on a Ray cluster: nothing lost, nothing twice, whoever dies. Nodes of one machine stand for hosts."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_fakes import log, suite, tasks
from hograd_bench import environment, measure, metrics, run, schema, store
from hograd_bench.cells import Cell
from hograd_bench.cli import app
from hograd_bench.engine import EngineError, Event, Host, Limits, Local, Task
from hograd_bench.engine import ray as engine
from hograd_bench.engine._crew import Shared
from hograd_bench.engine._site import Actor, salvage
from hograd_bench.plan import Planned
from typer.testing import CliRunner

TIMED = ("time",)
DOCUMENT = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return suite(tmp_path)


def ended(events: Iterator[Event]) -> list[tuple[str, int, str]]:
    return [(e.task.cell.problem, e.task.cell.n, e.row["status"]) for e in events if e.row is not None]


def beside(host: Host) -> set[str]:
    """Problems whose cells ran while another did."""
    found: set[str] = set()
    running: set[str] = set()
    for what, cell in (line.split(" ") for line in log(host) if line != "process"):
        running = running | {cell} if what == "begin" else running - {cell}
        if len(running) > 1:
            found |= {cell.split("/")[2] for cell in running}
    return found


# Without Ray: what runs on a node, and what is made of its answers.


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


# With Ray.


@pytest.fixture(scope="module")
def ray() -> Any:
    return pytest.importorskip("ray", reason="Ray is not installed: nox -s ray has it")


class Nodes:
    """Nodes of a cluster on this machine, whose head runs nothing."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster

    def add(self, **resources: int) -> None:
        self.cluster.add_node(object_store_memory=2**27, **{"num_cpus": 1, **resources})

    def engine(self) -> engine.Ray:
        return engine.Ray(Shared(None, Limits(seconds=120)), {}, engine._nodes())


@pytest.fixture(scope="module")
def head(ray: Any) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 10}
    arguments = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 2**27, "_system_config": quick}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def nodes(head: Any) -> Iterator[Nodes]:
    yield Nodes(head)
    for node in list(head.worker_nodes):
        head.remove_node(node)
    while engine._nodes():
        time.sleep(0.1)


@pytest.mark.slow
def test_every_cell_is_settled_once_on_two_nodes(nodes: Nodes, host: Host) -> None:
    nodes.add()
    nodes.add()
    given = [
        *tasks(host, "timed", "timed", families=TIMED),
        *tasks(host, "meets", "a", "meets", *"bcdefgh"),
        *tasks(host, "exits", "oom", "foreign"),
    ]
    events = list(nodes.engine().run(given))
    assert Counter(e.task for e in events if e.row is None) == Counter(given)
    assert Counter(e.task for e in events if e.row is not None) == Counter(given)
    rows = {e.task.cell.problem: e.row for e in events if e.row is not None}
    assert rows["exits"]["reason"] == "its process ended with exit code 7: last words"
    assert {p: rows[p]["status"] for p in ("exits", "oom", "foreign")} == {
        "exits": "crashed", "oom": "oom", "foreign": "skipped"
    }  # fmt: skip
    assert {row["details"]["host"] for row in rows.values()} == {"1", "2"}
    assert "meets" in beside(host)
    assert "timed" not in beside(host)  # two nodes of one host are one host


@pytest.mark.slow
def test_a_lost_node_puts_its_cells_back_once(nodes: Nodes, host: Host) -> None:
    for _ in range(4):  # three are lost, and when is a matter of time
        nodes.add()
    given = [*tasks(host, *"abcdef", "ends_node_once", *"ghij"), *tasks(host, "ends_node")]
    events = list(nodes.engine().run(given))
    settled = [e.task for e in events if e.row is not None]
    assert Counter(settled) == Counter(given)
    ended = {e.task.cell.problem: e.row for e in events if e.row is not None}
    assert ended["ends_node"]["status"] == "crashed"
    assert "lost, as was one before" in ended["ends_node"]["reason"]
    assert {row["status"] for problem, row in ended.items() if problem != "ends_node"} == {"ok"}


@pytest.mark.slow
def test_what_was_on_a_lost_node_waits_until_all_else_is_done(nodes: Nodes, host: Host) -> None:
    nodes.add()
    nodes.add()
    given = tasks(host, "a", "ends_node", *["slow"] * 12)
    rows = [e.row for e in nodes.engine().run(given) if e.row is not None]
    assert Counter(row["status"] for row in rows) == {"ok": 13, "crashed": 1}
    assert rows[-1]["status"] == "crashed"


@pytest.mark.slow
def test_a_workers_death_is_a_row_and_nothing_runs_twice(nodes: Nodes, host: Host) -> None:
    nodes.add()
    given = tasks(host, *"abc", "ends_worker", *"de")
    rows = {e.task.cell.problem: e.row for e in nodes.engine().run(given) if e.row is not None}
    assert {problem: row["status"] for problem, row in rows.items()} == {
        **dict.fromkeys("abcde", "ok"),
        "ends_worker": "oom",
    }
    assert "its Ray worker died" in rows["ends_worker"]["reason"]
    begun = [line for line in log(host) if line.startswith("begin")]
    assert len(begun) == len(set(begun)) == 6


@pytest.mark.slow
def test_no_node_left_is_an_error_with_its_last_words(nodes: Nodes, host: Host) -> None:
    nodes.add()
    with pytest.raises(EngineError, match=r"no host of this kind is left in the Ray cluster: ."):
        list(nodes.engine().run(tasks(host, "ends_node")))


@pytest.mark.slow
def test_what_is_no_longer_wanted_is_not_started_anywhere(nodes: Nodes, host: Host) -> None:
    nodes.add()
    over: set[str] = set()
    settled = []

    def wanted(task: Task) -> bool:
        return task.cell.problem not in over

    for event in nodes.engine().run(tasks(host, "a", "oom", *"bcd"), wanted):
        if event.row is not None:
            settled.append(event.task.cell.problem)
            over |= set("bc") if event.row["status"] == "oom" else set()
    assert settled == ["a", "oom", "d"]
    assert not any("/b/" in line or "/c/" in line for line in log(host))


@pytest.mark.slow
def test_a_gpu_a_cell_and_then_the_whole_host(nodes: Nodes, host: Host) -> None:
    nodes.add(num_cpus=2, num_gpus=2)  # which Ray counts, and does not look for
    on_gpu = [replace(t, cell=replace(t.cell, device="cuda")) for t in tasks(host, "meets", "meets", families=TIMED)]
    assert len(ended(nodes.engine().run([*tasks(host, "timed", "a", families=TIMED), *on_gpu]))) == 4
    assert beside(host) == {"meets"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_driver_that_is_killed_goes_on_with_figures_as_without_ray(ray: Any, tmp_path: Path) -> None:
    """The first command of docs/scale.md."""
    (line,) = [line for line in DOCUMENT.splitlines() if "--workers 2" in line]
    words = [*shlex.split(line, comments=True)[1:], "--results", str(tmp_path)]
    command = [sys.executable, "-m", "hograd_bench", *words]
    apart = {**os.environ, "TMPDIR": str(Path("/tmp") / f"h{os.getpid()}")}
    Path(apart["TMPDIR"]).mkdir()
    try:
        driver = subprocess.Popen(command, env=apart, stderr=subprocess.DEVNULL)
        while driver.poll() is None and not any(path.stat().st_size for path in tmp_path.glob("*/*/rows.jsonl")):
            time.sleep(0.05)
        driver.kill()
        driver.wait()
        for folder in Path(apart["TMPDIR"]).iterdir():  # what nobody could remove
            shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([*command, "--resume"], env=apart, check=True)
        assert not list(Path(apart["TMPDIR"]).glob("hograd-*"))
    finally:
        shutil.rmtree(apart["TMPDIR"], ignore_errors=True)
    (here,) = tmp_path.glob("*/*")
    rows = store.load(here, strict=True).rows
    assert len((here / store.ROWS).read_text(encoding="utf-8").splitlines()) == len(rows) >= 2
    assert set(rows["status"]) == {"ok"}
    on_ray = environment.Environment(store.environment_of(here))
    assert environment.comparable(on_ray, environment.record(), "cuda").level == "full"
    assert on_ray["hosts"] == {"1": {}}
    families = [metrics.families()[name].METRICS for name in measure.DETERMINISTIC]
    exact = [m.name for family in families for m in family if m.deterministic]
    assert "peak_bytes" in exact
    without = {
        e.task.cell.id: e.row["metrics"]
        for e in Local(2).run([Task(Cell.parse(cell), measure.DETERMINISTIC) for cell in rows["cell"]])
        if e.row is not None
    }
    for row in store.read_rows(here):
        assert {n: row["metrics"].get(n) for n in exact} == {n: without[row["cell"]].get(n) for n in exact}
