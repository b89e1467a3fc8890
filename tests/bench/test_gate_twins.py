"""Workers, pairs and the timing loop, on fake sides with a virtual clock: real processes, no dependence on speed."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gate_fakes as fakes
import psutil
import pytest
from gate_fakes import FEW, MS, NAMES, behaviour, compare, kinds, twin
from hograd_bench.gate import run
from hograd_bench.gate.outcome import Exit, NotComparableError
from hograd_bench.gate.revisions import sides
from hograd_bench.gate.statistics.policy import Policy
from hograd_bench.gate.twins import loop, processes
from hograd_bench.gate.twins.processes import Worker, WorkerError, environment
from hograd_bench.scratch import clear_stale


@pytest.mark.slow
def test_identical_sides_pass(tmp_path: Path) -> None:
    outcome, timed = compare(tmp_path, behaviour(), behaviour())
    assert outcome.exit == Exit.PASS, outcome.findings
    assert {v.verdict for v in timed.verdicts.values()} == {"same"}
    assert outcome.counted == 3


@pytest.mark.slow
def test_a_slow_cell_is_named_with_its_size(tmp_path: Path) -> None:
    outcome, timed = compare(tmp_path, behaviour(), behaviour(two={"ns": int(1.05 * MS)}))
    assert outcome.exit == Exit.REGRESSION
    assert kinds(outcome) == {"two": "slower"}
    assert timed.verdicts["two"].change == pytest.approx(0.05, abs=0.005)
    assert timed.verdicts["one"].verdict == "same"
    assert timed.verdicts["one"].pairs < timed.verdicts["two"].pairs


@pytest.mark.slow
def test_noise_ends_inconclusive(tmp_path: Path) -> None:
    wild = {name: {"ns": MS, "noise": 30.0} for name in NAMES}
    outcome, _ = compare(tmp_path, wild, wild, Policy(max_pairs=6), counts=False)
    assert outcome.exit == Exit.INCONCLUSIVE
    assert set(kinds(outcome).values()) == {"inconclusive"}


@pytest.mark.slow
def test_a_faster_wrong_kernel_fails(tmp_path: Path) -> None:
    wrong = behaviour(two={"ns": MS // 10, "result": [1.0, 2.02]})
    outcome, timed = compare(tmp_path, behaviour(), wrong, counts=False)
    assert outcome.exit == Exit.REGRESSION
    assert kinds(outcome) == {"two": "wrong"}
    assert "two" not in timed.verdicts


@pytest.mark.slow
@pytest.mark.parametrize(
    "result", [[1.0], *(pytest.param([bad, 2.0], marks=pytest.mark.slow) for bad in (math.nan, math.inf))]
)
def test_shapes_and_nan_are_compared(tmp_path: Path, result: list[float]) -> None:
    outcome, _ = compare(tmp_path, behaviour(), behaviour(two={"result": result}), counts=False)
    assert kinds(outcome) == {"two": "wrong"}


@pytest.mark.slow
def test_cells_that_come_and_go(tmp_path: Path) -> None:
    a = {**behaviour(two={"status": "unsupported"}), "gone": {"ns": MS}, "never": {"ns": MS, "status": "failed"}}
    b = {**behaviour(one={"status": "unsupported"}), "fresh": {"ns": MS}, "never": {"ns": MS, "status": "failed"}}
    outcome, _ = compare(tmp_path, a, b, counts=False)
    assert kinds(outcome) == {"one": "broken", "two": "new", "gone": "missing", "fresh": "new", "never": "skipped"}
    assert outcome.exit == Exit.REGRESSION
    exact, _ = compare(tmp_path, a, b, timing=False)
    assert kinds(exact) == {"one": "broken", "two": "improvement", "gone": "missing", "fresh": "new"}


@pytest.mark.slow
def test_a_crash_is_a_finding_and_the_others_go_on(tmp_path: Path) -> None:
    outcome, timed = compare(tmp_path, behaviour(), behaviour(one={"status": "crash"}), counts=False)
    assert kinds(outcome)["one"] == "broken"
    assert any("died of SIGSEGV" in f.text for f in outcome.findings)
    assert {n: v.verdict for n, v in timed.verdicts.items()} == {"two": "same", "three": "same"}
    assert outcome.exit == Exit.REGRESSION


@pytest.mark.slow
def test_a_hang_is_ended(tmp_path: Path) -> None:
    left = fakes.side(tmp_path, "a", behaviour(one={"status": "hang"}))
    with Worker(left, environment(1, 1, 0)) as worker:
        worker.greet()
        worker.receive_greeting()
        worker.timeout = 0.5
        with pytest.raises(WorkerError, match="no answer within") as caught:
            worker.ask("prepare", cell=fakes.cell_id("one"), result=str(tmp_path / "r"))
    assert caught.value.status == "timeout"
    assert not _alive(worker.pid)


@pytest.mark.slow
def test_a_side_without_a_suite_is_not_comparable(tmp_path: Path) -> None:
    lacking = fakes.side(tmp_path, "old", {})
    shutil.rmtree(tmp_path / "old" / "hograd_core")
    shutil.rmtree(tmp_path / "old" / "bench" / "hograd_bench")
    good = fakes.side(tmp_path, "b", behaviour())
    for counts in (True, False):
        with pytest.raises(NotComparableError, match="no suite"):
            run.sides_against(
                lacking, good, [twin("one")], FEW, seed=1, engine=fakes.Engine(), counts=counts, timing=not counts
            )


@pytest.mark.slow
def test_sides_without_a_common_cell_are_not_comparable(tmp_path: Path) -> None:
    outcome, _ = compare(tmp_path, {}, behaviour())
    assert outcome.exit == Exit.NOT_COMPARABLE
    assert "later base" in next(f.text for f in outcome.findings if f.kind == "not comparable")


@pytest.mark.slow
def test_a_kernel_that_goes_wrong_during_its_turns_is_wrong(tmp_path: Path) -> None:
    late = behaviour(two={"wrong_from": 40})
    outcome, timed = compare(tmp_path, behaviour(), late)
    assert [(f.kind, f.cell) for f in outcome.findings] == [("wrong", "two")]
    assert "agree at first, and disagree after many calls" in outcome.findings[0].text
    assert "two" not in timed.verdicts


def test_what_failed_once_is_said(tmp_path: Path) -> None:
    made = loop.Loop(fakes.side(tmp_path, "a", {}), fakes.side(tmp_path, "b", {}), random.Random(1), tmp_path)
    made.found.pairs += [{}, {}, {}]
    for side in "AB":
        made.strike(twin("one"), side, WorkerError("failed", "kaputt", Any))  # type: ignore[arg-type]
    assert [(f.kind, f.level, f.text) for f in made.once()] == [
        ("unsteady", "warning", "side B, in 1 of 3 process pairs, failed: kaputt")
    ]
    assert made.found.findings == []
    made.strike(twin("one"), "B", WorkerError("failed", "kaputt", Any))  # type: ignore[arg-type]
    assert made.once() == []
    assert [f.kind for f in made.found.findings] == ["broken"]


def test_what_was_said_before_the_end_is_read_though_the_request_comes_too_late(tmp_path: Path) -> None:
    echo = replace(fakes.side(tmp_path, "a", behaviour()), python=shutil.which("echo") or "")
    with Worker(echo, environment(1, 1, 0)) as worker:
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(WorkerError, match=r"no line of JSON.*is it a Python interpreter"):
            worker.ask("hello")
        with pytest.raises(WorkerError, match="ended with exit code 0") as found:
            worker.ask("hello")
        assert found.value.status == "crashed"


@pytest.mark.slow
def test_time_is_bounded(tmp_path: Path) -> None:
    outcome, _ = compare(tmp_path, behaviour(), behaviour(), Policy(max_seconds=1e-6), counts=False)
    assert outcome.pairs <= 1
    assert outcome.exit == Exit.INCONCLUSIVE


@contextmanager
def prepared(folder: Path, a: dict[str, Any], b: dict[str, Any]) -> Iterator[Any]:
    left, right = fakes.side(folder, "a", {"one": a}), fakes.side(folder, "b", {"one": b})
    with processes.pair(left, right, random.Random(1)) as workers:
        for worker in workers:
            worker.ask("prepare", cell=fakes.cell_id("one"), result=str(folder / "r"))
        yield workers


def stretch(workers: Any, seed: int = 1, calls: int = 3, turns: int = 5) -> processes.Turns:
    cell = fakes.cell_id("one")
    return processes.take_turns(*workers, cell, cell, calls, turns, random.Random(seed))


@pytest.mark.slow
def test_sides_alternate_and_who_begins_is_drawn(tmp_path: Path) -> None:
    log = tmp_path / "log"
    calls = [{"ns": ns * MS, "log": [str(log), name]} for name, ns in (("a", 1), ("b", 2))]
    orders = set()
    with prepared(tmp_path, *calls) as workers:
        for seed in range(8):
            log.write_text("", encoding="utf-8")
            seen = stretch(workers, seed, calls=2)
            assert (len(seen.a), len(seen.b)) == (5, 5)
            assert seen.log_ratios() == pytest.approx([math.log(2)] * 5, abs=1e-3)
            assert {t["calls"] for t in seen.a + seen.b} == {2}
            orders.add(log.read_text(encoding="utf-8"))
    assert orders == {"aabb" * 6, "bbaa" * 6}  # a turn of each to warm up, then five


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
@pytest.mark.parametrize("guilty", [0, 1])
@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("crash", "crashed"),
        ("failed", "failed"),
        pytest.param("hang", "timeout", marks=pytest.mark.slow),
    ],
)
def test_who_ends_a_stretch_is_blamed(tmp_path: Path, how: str, status: str, guilty: int, seed: int) -> None:
    fine, bad = {"ns": MS}, {"ns": MS, "status": how, "from_call": 12}
    with prepared(tmp_path, *((bad, fine) if guilty == 0 else (fine, bad))) as workers:
        for worker in workers:
            worker.timeout = 3.0 if how == "hang" else 60.0
        with pytest.raises(WorkerError) as caught:
            stretch(workers, seed)
        assert caught.value.status == status
        assert caught.value.worker is workers[guilty]
        if how == "failed":  # nobody is lost, and no turn is left lying in the pipes
            with pytest.raises(WorkerError, match="kaputt"):
                stretch(workers, seed)


@pytest.mark.slow
def test_a_cell_that_fails_late_is_a_finding_and_the_others_go_on(tmp_path: Path) -> None:
    late = behaviour(one={"status": "failed", "from_call": 12})
    outcome, timed = compare(tmp_path, behaviour(), late, counts=False)
    assert kinds(outcome)["one"] == "broken"
    assert {n: v.verdict for n, v in timed.verdicts.items()} == {"two": "same", "three": "same"}


def test_workers_see_pinned_threads_and_one_hash_seed() -> None:
    env = environment(3, 17, 5)
    assert (env["OMP_NUM_THREADS"], env["MKL_NUM_THREADS"], env["PYTHONHASHSEED"]) == ("3", "3", "17")
    assert env["HOGRAD_GATE_PADDING"] == "xxxxx"
    assert "PYTHONPATH" not in env


def test_both_sides_are_reached_by_paths_of_equal_length(tmp_path: Path) -> None:
    a, b = fakes.side(tmp_path, "short", {}), fakes.side(tmp_path, "a_much_longer_name", {})
    with sides.mirrored(a, b) as (left, right):
        assert [len(r) for r in left.roots] == [len(r) for r in right.roots]
        assert Path(left.roots[1]).resolve() == tmp_path / "short" / "bench"
        kept = Path(left.roots[0]).parent
    assert not kept.exists()


def _alive(pid: int) -> bool:
    """Whether it runs: the first process of a container may never collect those that ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


GATE = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would inherit that it is ignored
sys.path.insert(0, sys.argv[1])
import gate_fakes as fakes
from hograd_bench.gate import run
from hograd_bench.gate.revisions import sides
from hograd_bench.gate.revisions.sides import Twin
from hograd_bench.gate.statistics.policy import Policy
sides.end_cleanly()
does = {"one": {"ns": 1000000, "status": "hang"}}
a, b = (fakes.side(Path(sys.argv[2]), n, does) for n in "ab")
cell = fakes.cell_id("one")
print("ready", flush=True)
run.sides_against(a, b, [Twin(cell, cell, cell)], Policy(), seed=1, counts=False)
"""


def _children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killed_midway_leaves_no_worker(tmp_path: Path, how: signal.Signals) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    here = str(Path(__file__).parent)
    gate = subprocess.Popen(
        [sys.executable, "-c", GATE, here, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
    )
    try:
        assert gate.stdout is not None
        gate.stdout.readline()
        workers = _until(lambda: [w for w in [_children(gate.pid)] if len(w) == 2])[0]
        time.sleep(0.5)  # into the hanging call
        gate.send_signal(how)
        gate.wait(timeout=120)
        assert _until(lambda: not any(_alive(w) for w in workers))
    finally:
        gate.kill()
        gate.wait()
        gate.stdout.close()
    left = list((tmp_path / "tmp").glob("hograd-*"))
    if how == signal.SIGKILL:  # nobody could clean up then; the next start does
        assert clear_stale(tmp_path / "tmp") == left
    assert not list((tmp_path / "tmp").glob("hograd-*"))


def _until(what: Any, seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("did not happen in time")
