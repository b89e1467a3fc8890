from __future__ import annotations

import signal
import threading

import peers_fakes as fakes
import pytest
import torch
from hograd_bench.peers import Contest, Contestant, Memory, Peer, _campaign, _measuring
from hograd_bench.peers._campaign import Campaign, row
from hograd_bench.peers._remote import LostError, Remote

from hograd_core import UnsupportedError


@pytest.fixture
def measured(monkeypatch):
    """Runs a campaign of fake peers in this process; returns rows by (peer, way)."""
    monkeypatch.setattr(_campaign, "Remote", fakes.FakeRemote)
    monkeypatch.setattr(_campaign, "BURST_SECONDS", 1e-4)

    def run(*peers, contests=(fakes.CONTEST,), processes=1):
        fakes.FakeRemote.peers = {p.name: p for p in peers}
        fakes.FakeRemote.started = []
        campaign = Campaign(contests, peers, None, {})
        campaign.run(processes)
        rows = [row(entry) for entry in campaign.entries]
        fakes.document(rows)  # every row is a valid one
        return {(r["peer"], r["way"]): r for r in rows}

    return run


def test_a_right_result_is_timed_and_weighed_in_every_process(measured):
    found = measured(fakes.peer("P", good=fakes.right), processes=3)["P", "good"]
    assert found["status"] == "ok"
    assert found["note"] == "a note"
    metrics = found["metrics"]
    assert 0 < metrics["seconds_min"] <= metrics["seconds_median"]
    assert metrics["calls"] >= 3 * _campaign.ROUNDS
    assert metrics["peak_bytes"] > 0
    assert metrics["relative_error"] <= metrics["tolerance"]
    assert fakes.FakeRemote.started == ["P"] * 3


@pytest.mark.parametrize(
    ("compute", "status", "reason"),
    [
        (lambda task: fakes.right(task) * 1.01, "wrong", "relative error"),
        (lambda task: fakes.right(task)[:-1], "wrong", "relative error inf"),
        (lambda task: fakes.right(task) * float("nan"), "wrong", "relative error inf"),
        (ValueError("no | good\nsecond line"), "failed", "ValueError: no | good"),
        (LookupError("loss: unknown"), "unsupported", "loss: unknown"),
        (KeyError("loss"), "failed", "KeyError: 'loss'"),
        (UnsupportedError("op", "PyTorch lacks it"), "unsupported", "PyTorch lacks it"),
        (MemoryError(), "oom", "MemoryError"),
        (ModuleNotFoundError("No module named 'x'"), "failed", "No module named 'x'"),
        (fakes.Death(), "crashed", "SIGSEGV"),
        (fakes.Hang(), "timeout", "no answer"),
    ],
)
def test_what_goes_wrong_is_a_row_with_its_reason_and_without_times(measured, compute, status, reason):
    rows = measured(fakes.peer("P", bad=compute, good=fakes.right))
    found = rows["P", "bad"]
    assert found["status"] == status
    assert reason in found["reason"]
    assert not {"seconds_min", "seconds_median", "peak_bytes"} & set(found["metrics"])
    # Whatever became of one, the package's other way is measured.
    assert rows["P", "good"]["status"] == "ok"


def test_one_that_dies_after_another_was_prepared_costs_only_itself(measured):
    rows = measured(
        fakes.peer("P", good=fakes.right, bad=fakes.Death(), other=fakes.right), fakes.peer("Q", w=fakes.right)
    )
    assert {way: r["status"] for (_, way), r in rows.items()} == {
        "good": "ok", "bad": "crashed", "other": "ok", "w": "ok",
    }  # fmt: skip


def test_another_function_is_found_before_its_result_is_looked_at(measured):
    peer = Peer("P", distribution="torch", module="torch", home="nowhere")
    peer.offer("hvp", "w")(lambda task: Contestant(lambda: fakes.right(task), lambda: task.value() + 1))
    found = measured(peer)["P", "w"]
    assert found["status"] == "wrong"
    assert found["reason"].startswith("its function is another one")


def test_a_result_that_turns_wrong_in_a_later_process_is_wrong(measured):
    calls = []

    def turns(task):
        calls.append(1)
        return fakes.right(task) * (2 if len(fakes.FakeRemote.started) > 1 else 1)

    assert measured(fakes.peer("P", w=turns), processes=2)["P", "w"]["status"] == "wrong"
    assert calls


def test_memory_keeps_its_instruments_name_and_its_failure_is_no_failure_of_the_contestant(measured):
    peer = Peer("P", distribution="torch", module="torch", home="nowhere")

    def broken():
        raise ValueError("no such counter")

    peer.offer("hvp", "own")(lambda t: Contestant(lambda: fakes.right(t), t.value, memory=lambda: Memory(7, "XLA b")))
    peer.offer("hvp", "broken")(lambda t: Contestant(lambda: fakes.right(t), t.value, memory=broken))
    rows = measured(peer)
    assert rows["P", "own"]["metrics"]["peak_bytes"] == 7
    assert rows["P", "own"]["metrics"]["memory_instrument"] == "XLA b"
    assert rows["P", "broken"]["status"] == "ok"
    assert rows["P", "broken"]["missing"]["peak_bytes"] == "ValueError: no such counter"


def test_a_package_that_is_not_there_or_cannot_be_imported_has_rows_that_say_so(measured):
    gone = Peer("gone", distribution="no-such-distribution", module="nothing", home="nowhere")
    broken = Peer("broken", distribution="torch", module="no_such_module", home="nowhere")
    for peer in (gone, broken):
        peer.offer("hvp", "w")(lambda task: None)
    rows = measured(gone, broken, fakes.peer("P", good=fakes.right))
    assert rows["gone", "w"]["status"] == "skipped"
    assert "no-such-distribution is not installed" in rows["gone", "w"]["reason"]
    assert rows["broken", "w"]["status"] == "failed"
    assert "No module named 'no_such_module'" in rows["broken", "w"]["reason"]
    assert rows["P", "good"]["status"] == "ok"
    assert "gone" not in fakes.FakeRemote.started


def test_why_pip_failed_is_the_reason_of_what_is_not_there():
    gone = Peer("gone", distribution="no-such-distribution", module="nothing", home="nowhere")
    gone.offer("hvp", "w")(lambda task: None)
    (entry,) = Campaign([fakes.CONTEST], [gone], None, {"gone": "ERROR: no matching distribution"}).entries
    assert row(entry)["reason"] == "could not be installed: ERROR: no matching distribution"


def test_without_truth_nobody_is_measured(measured):
    contest = Contest("minimize", "quadratic", 3)
    peer = Peer("P", distribution="torch", module="torch", home="nowhere")
    peer.offer("minimize", "w")(lambda task: Contestant(lambda: task.x, task.value))
    found = measured(peer, contests=[contest])["P", "w"]
    assert found["status"] == "failed"
    assert "no truth" in found["reason"]


def test_a_worker_process_measures_hograd_and_its_death_is_told(tmp_path):
    remote = Remote("hograd", {}, _measuring.usable_cpu())
    try:
        assert remote.ask({"do": "hello"}, 180)["torch"] == torch.__version__
        request = {
            "contest": vars(fakes.CONTEST),
            "way": "double_backward",
            "result": str(tmp_path / "r.pt"),
            "key": "k",
        }
        assert remote.ask({"do": "prepare", **request}, 60)["ok"]
        assert torch.load(tmp_path / "r.pt", weights_only=True).shape == (4,)
        reply = remote.ask({"do": "burst", "key": "k", "seconds": 0.001}, 60)
        assert min(reply["samples"]) > 0
        assert remote.ask({"do": "burst", "key": "another", "seconds": 0.001}, 60)["ok"] is False
        with pytest.raises(LostError, match="no answer within") as lost:
            remote.ask({"do": "burst", "key": "k", "seconds": 30}, 0.05)
        assert lost.value.status == "timeout"
    finally:
        remote.close()


@pytest.mark.parametrize("before", [True, False], ids=["before it is asked", "while it is asked"])
def test_a_worker_that_is_killed_is_told_by_its_signal(before):
    remote = Remote("hograd", {}, None)
    try:
        if before:  # its end of the pipe is closed: the request cannot be written, then or when the pipe is closed
            remote._process.kill()
            remote._process.wait()
        else:
            remote._process.send_signal(signal.SIGSTOP)
            threading.Timer(0.2, remote._process.kill).start()
        with pytest.raises(LostError, match="SIGKILL") as lost:
            remote.ask({"do": "hello"}, 180)
        assert lost.value.status == "crashed"
    finally:
        remote.close()


def test_a_worker_that_cannot_start_says_its_last_words():
    remote = Remote("nobody", {}, None)
    try:
        with pytest.raises(LostError, match="exit code 1: KeyError: 'nobody'"):
            remote.ask({"do": "hello"}, 180)
    finally:
        remote.close()


def test_a_measurement_is_a_document_in_which_every_offer_has_a_row(monkeypatch):
    monkeypatch.setattr(_campaign, "Remote", fakes.FakeRemote)
    monkeypatch.setattr(_campaign, "BURST_SECONDS", 1e-4)
    monkeypatch.setattr(_measuring, "contests", lambda: [fakes.CONTEST])
    away = Peer("away", distribution="no-such-distribution", module="nothing", home="nowhere")
    away.offer("hvp", "w")(lambda task: None)
    everyone = {"P": fakes.peer("P", good=fakes.right), "away": away}
    monkeypatch.setattr(_measuring, "peers", lambda: everyone)
    fakes.FakeRemote.peers = everyone
    found = _measuring.measure(processes=1)
    assert [(r["peer"], r["status"]) for r in found["rows"]] == [("P", "ok"), ("away", "skipped")]
    assert [(p["name"], p["version"], bool(p["reason"])) for p in found["peers"]] == [
        ("P", torch.__version__, False), ("away", None, True),
    ]  # fmt: skip
    assert found["settings"]["command"] == "hograd peers --run --processes 1"
    with pytest.raises(ValueError, match="no contest's id contains 'nothing like it'"):
        _measuring.measure("nothing like it")
    with pytest.raises(ValueError, match="processes: got 0"):
        _measuring.measure(processes=0)
