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
from engine_fakes import beside, log, suite, tasks
from hograd_bench import environment, measure, metrics, store
from hograd_bench.cells import Cell
from hograd_bench.engine import EngineError, Event, Host, Limits, Local, Task
from hograd_bench.engine import ray as engine
from hograd_bench.engine._crew import Shared

TIMED = ("time",)
DOCUMENT = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return suite(tmp_path)


def ended(events: Iterator[Event]) -> list[tuple[str, int, str]]:
    return [(e.task.cell.problem, e.task.cell.n, e.row["status"]) for e in events if e.row is not None]


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
