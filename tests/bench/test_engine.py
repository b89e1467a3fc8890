"""No cell takes a sweep down: each kind of trouble is a row with that status, and what follows is measured."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hograd_bench import driver, environment, problems, store
from hograd_bench.cells import Cell
from hograd_bench.engine import EngineError, Host, Limits, Local
from hograd_bench.plan import Planned

FILE = Path(__file__).parents[1] / "data" / "failing_problems.py"
LIGHT = ("accuracy", "memory")
HOST = Host(problem_files=(str(FILE),))


@pytest.fixture(scope="module", autouse=True)
def _problems_of_the_tests() -> None:
    if "fine" not in problems.problems():
        problems.load_file(FILE)


@pytest.fixture
def run(tmp_path: Path) -> store.Run:
    return store.create_run(tmp_path / "results", environment.record())


def cell(problem: str, n: int = 4, method: str = "double_backward") -> Cell:
    return Cell("derivative_vector_product", method, problem, n)


def rows(run: store.Run) -> dict[str, dict[str, object]]:
    frame = store.load(run.path, strict=True).rows
    assert not frame["cell"].duplicated().any()
    return {r["cell"]: r for r in frame.to_dict("records")}


@pytest.mark.slow
def test_every_kind_of_trouble_is_a_row_and_the_sweep_goes_on(run: store.Run) -> None:
    expected = {
        cell("fine", 3): ("ok", ""),
        cell("raises"): ("failed", "KeyError: '<b>no such thing</b>'"),
        cell("hangs", 8): ("timeout", "25 s a cell"),
        cell("hangs", 16): ("skipped", f"dominated: {cell('hangs', 8).id} ended as timeout"),
        cell("hangs", 4): ("ok", ""),
        cell("segfaults", 8): ("crashed", "SIGSEGV"),
        cell("segfaults", 9): ("skipped", "dominated"),
        cell("exits"): ("crashed", "exit code 7"),
        cell("eats_memory", 8): ("oom", "allocate"),
        cell("eats_memory", 9): ("skipped", "dominated"),
        cell("impure"): ("wrong", "exceeds the tolerance"),
        cell("fine", 5): ("ok", ""),
    }
    plans = [Planned(c, LIGHT) for c in expected]
    plans.append(Planned(cell("fine", 6), LIGHT, skip="because"))
    events: list[driver.Event] = []
    driver.execute(plans, run, Local(limits=Limits(seconds=25)), events.append, host=HOST)
    got = rows(run)
    assert {c.id for c in expected} | {cell("fine", 6).id} == set(got)
    for c, (status, said) in expected.items():
        assert got[c.id]["status"] == status, got[c.id]["reason"]
        assert said in str(got[c.id]["reason"] or "")
    assert got[cell("fine", 6).id]["reason"] == "because"
    assert {e.planned.cell.id: e.status for e in events} == {k: r["status"] for k, r in got.items()}


@pytest.mark.slow
def test_what_pytorch_cannot_do_and_what_it_silently_gets_wrong(run: store.Run) -> None:
    fused = Cell("derivative_vector_product", "double_backward", "sdpa_attention_loss", 4, batch=2)
    silent = cell("once")  # differentiates twice to zeros, without an error; truth is by differences
    plans = [Planned(fused, LIGHT), Planned(silent, LIGHT)]
    driver.execute(plans, run, Local(limits=Limits(seconds=60)), host=HOST)
    got = rows(run)
    assert got[fused.id]["status"] == "unsupported"
    assert "is not implemented" in str(got[fused.id]["reason"])
    assert got[silent.id]["status"] == "wrong"
    assert "differences" in str(got[silent.id]["reason"])


@pytest.mark.slow
def test_a_memory_limit_makes_an_oom_row(run: store.Run) -> None:
    # The limit is ample for the stacks of a worker's threads, however many cores there are.
    big = Planned(cell("reserves", 8), LIGHT)
    driver.execute([big], run, Local(limits=Limits(seconds=60, memory=2**32)), isolate="always", host=HOST)
    (row,) = rows(run).values()
    assert row["status"] == "oom", row["reason"]


@pytest.mark.slow
def test_finished_cells_are_not_repeated(run: store.Run) -> None:
    plans = [Planned(cell("fine", n), LIGHT) for n in (2, 3, 4)]
    driver.execute(plans[:2], run, Local(), host=HOST)
    before = (run.path / store.ROWS).read_bytes()
    events: list[driver.Event] = []
    driver.execute(plans, run, Local(), events.append, host=HOST)
    assert (run.path / store.ROWS).read_bytes().startswith(before)
    assert [e.planned.cell.n for e in events] == [4]


@pytest.mark.slow
def test_a_worker_that_cannot_start_says_why(run: store.Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module\n", encoding="utf-8")
    with pytest.raises(EngineError, match="no_such_module"):
        driver.execute([Planned(cell("fine"), LIGHT)], run, Local(), host=Host(problem_files=(str(broken),)))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_run_leaves_no_worker_and_resumes(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "hograd_bench", "run", "--problem-file", str(FILE), "--results", str(tmp_path),
        "--cell-timeout", "60", *(part for n in (2, 3) for part in ("--cell", cell("fine", n).id)),
        "--cell", cell("hangs", 8).id,
    ]  # fmt: skip
    sweep = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120  # of a machine that is busy with other tests
    found: list[Path] = []
    while time.monotonic() < deadline and sum(p.read_text(encoding="utf-8").count("\n") for p in found) < 2:
        time.sleep(0.1)
        found = list(tmp_path.glob("*/*/rows.jsonl"))
    children = _children(sweep.pid)
    assert children
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and any(_alive(c) for c in children):
        time.sleep(0.05)
    assert not any(_alive(c) for c in children)

    (path,) = tmp_path.glob("*/*/environment.json")
    environment = json.loads(path.read_text(encoding="utf-8"))
    assert environment["plan"]["cells"] == 3
    assert set(environment["plan"]["problems"]) >= {"fine", "hangs"}
    environment["plan"]["problems"]["fine"] = "another text"
    path.rename(path.with_suffix(".kept"))
    path.write_text(json.dumps(environment), encoding="utf-8")
    refused = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "began without the file that declares fine, or with another text of it" in " ".join(refused.stderr.split())
    path.with_suffix(".kept").rename(path)

    again = subprocess.run([*command, "--resume", "--cell-timeout", "3"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    (path,) = tmp_path.glob("*/*/rows.jsonl")
    frame = store.load(path.parent, strict=True).rows
    assert sorted(frame["status"]) == ["ok", "ok", "timeout"]
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_killed_at_random_moments_it_resumes_to_the_full_set(tmp_path: Path) -> None:
    """HOGRAD_KILLS=20 pytest -k random is the documented stress test; CI kills less often."""
    kills, moments = int(os.environ.get("HOGRAD_KILLS", "3")), random.Random(7)
    cells = [cell("fine", n).id for n in range(2, 42)]
    command = [
        sys.executable, "-m", "hograd_bench", "run", "--problem-file", str(FILE), "--results", str(tmp_path),
        *(part for text in cells for part in ("--cell", text)),
    ]  # fmt: skip
    rows_file: list[Path] = []
    for _ in range(kills):
        resume = ["--resume"] if rows_file else []
        sweep = subprocess.Popen([*command, *resume], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = _count(rows_file)
        deadline = time.monotonic() + 120
        # To the first new row, then a random moment further: somewhere within the next few cells.
        while time.monotonic() < deadline and sweep.poll() is None and _count(rows_file) == before:
            time.sleep(0.01)
            rows_file = list(tmp_path.glob("*/*/rows.jsonl"))
        time.sleep(moments.uniform(0, 0.3))
        sweep.kill()
        sweep.wait()
    last = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    (path,) = tmp_path.glob("*/*/rows.jsonl")
    written = [json.loads(line)["cell"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert sorted(written) == sorted(cells)
    assert set(store.load(path.parent, strict=True).rows["status"]) == {"ok"}


def _count(files: list[Path]) -> int:
    return sum(path.read_bytes().count(b"\n") for path in files)


def _children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
