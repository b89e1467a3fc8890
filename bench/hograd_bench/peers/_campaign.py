"""All contests, all peers: each result checked against truth, then timed in turns, process by process.

Every peer has a process of its own, all on one CPU with one thread; only one of them works at a time. In each contest
the contestants take turns, burst by burst, in an order shuffled anew each round, so that a minute in which the machine
is slow is slow for all. The whole is done several times with fresh processes, since where a process happens to lie in
memory moves its times by more than its own samples show.
"""

from __future__ import annotations

import importlib.metadata
import random
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hograd_bench.peers import _document, _truth
from hograd_bench.peers._contract import Contest, Offer, Peer
from hograd_bench.peers._remote import LostError, Remote
from hograd_core.reference import TruthError

ROUNDS = 8
BURST_SECONDS = 0.012
ENOUGH_SECONDS = 1.0
LEAST_ROUNDS = 3
"""A contestant sits out once it has had this many rounds and this many seconds in a process."""

START_SECONDS = 180.0
CALL_SECONDS = 120.0
Heard = Callable[[str], None]


@dataclass
class Entry:
    """A row in the making.

    Attributes:
        contest, peer, offer: what and whose.
        status, reason: as in a row; "ok" until something goes wrong.
        metrics: readings that are not times of rounds.
        samples: nanoseconds of calls, a list for each process.
        note: the contestant's.
    """

    contest: Contest
    peer: Peer
    offer: Offer
    status: str = "ok"
    reason: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    samples: list[list[int]] = field(default_factory=list)
    note: str = ""

    @property
    def key(self) -> str:
        """What the worker knows the contestant by."""
        return f"{self.contest.id}/{self.offer.way}"

    def ends(self, status: str, reason: str) -> None:
        """It is out, and why."""
        self.status, self.reason = status, reason


def entries(contests: Sequence[Contest], peers: Sequence[Peer]) -> list[Entry]:
    """Every offer in every contest that it fits."""
    return [Entry(contest, peer, offer) for contest in contests for peer in peers for offer in peer.offered(contest)]


def installed(peer: Peer) -> str | None:
    """The version of the peer's distribution, or None."""
    try:
        return importlib.metadata.version(peer.distribution)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


def absence(peer: Peer, failures: Mapping[str, str]) -> str:
    """Why a peer is not there, in a sentence."""
    why = failures.get(peer.name)
    return f"could not be installed: {why}" if why else f"{peer.distribution} is not installed; `nox -s peers` installs"


class Campaign:
    """One campaign's processes and entries.

    Args:
        contests: what is measured.
        peers: who takes part, whether installed or not.
        cpu: the CPU that all processes are bound to.
        failures: peer -> why it could not be installed.
        heard: called with a line of progress.
    """

    def __init__(
        self,
        contests: Sequence[Contest],
        peers: Sequence[Peer],
        cpu: int | None,
        failures: Mapping[str, str],
        heard: Heard = lambda line: None,
    ) -> None:
        self.contests = list(contests)
        self.peers = {peer.name: peer for peer in peers}
        self.entries = entries(contests, peers)
        self.versions = {peer.name: installed(peer) for peer in peers}
        self._cpu = cpu
        self._heard = heard
        self._remotes: dict[str, Remote] = {}
        self._standards: dict[str, _truth.Standard] = {}
        for peer in peers:
            if self.versions[peer.name] is None:
                self._all_end(peer.name, "skipped", absence(peer, failures))

    def _all_end(self, peer: str, status: str, reason: str) -> None:
        for entry in self.entries:
            if entry.peer.name == peer and entry.status == "ok":
                entry.ends(status, reason)

    def run(self, processes: int) -> None:
        """Measure everything in ``processes`` generations of processes."""
        with tempfile.TemporaryDirectory(prefix="hograd-peers-") as scratch:
            try:
                for generation in range(processes):
                    self._generation(Path(scratch), f"process {generation + 1} of {processes}")
            finally:
                self._close()

    def _generation(self, scratch: Path, label: str) -> None:
        alive = {entry.peer.name for entry in self.entries if entry.status == "ok"}
        for name in self.peers:
            if name in alive:
                self._start(name, scratch)
        for number, contest in enumerate(self.contests, 1):
            taking_part = [e for e in self.entries if e.contest == contest and e.status == "ok"]
            if taking_part:
                self._heard(f"{label}: contest {number} of {len(self.contests)}, {contest.id}")
                self._contest(contest, taking_part, scratch)
        self._close()

    def _start(self, name: str, scratch: Path) -> None:
        peer = self.peers[name]
        # Compiled programs are kept for the campaign's later processes; compile times are the first process's.
        variables = {**peer.variables, "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled")}
        self._remotes[name] = Remote(name, variables, self._cpu)
        try:
            reply = self._remotes[name].ask({"do": "hello"}, START_SECONDS)
        except LostError as error:
            self._drop(name)
            self._all_end(name, error.status, f"at its import {error}")
            return
        if not reply["ok"]:
            self._drop(name)
            self._all_end(name, "failed", f"its import fails: {reply['reason']}")

    def _drop(self, name: str) -> None:
        if name in self._remotes:
            self._remotes.pop(name).close()

    def _close(self) -> None:
        for name in list(self._remotes):
            self._drop(name)

    def _contest(self, contest: Contest, taking_part: list[Entry], scratch: Path) -> None:
        try:
            if contest.id not in self._standards:
                self._standards[contest.id] = _truth.standard(contest)
        except (TruthError, ValueError) as error:
            for entry in taking_part:
                entry.ends("failed", f"there is no truth to hold it against: {error}")
            return
        for entry in taking_part:
            self._prepare(entry, self._standards[contest.id], scratch)
        ready = [e for e in taking_part if e.status == "ok"]
        self._take_turns(ready)
        for entry in ready:
            if entry.status == "ok" and "peak_bytes" not in entry.metrics:
                self._weigh(entry)

    def _ask(self, entry: Entry, request: dict[str, Any]) -> dict[str, Any] | None:
        """The reply, or None where the entry is out for it."""
        name = entry.peer.name
        if name not in self._remotes:
            entry.ends("crashed", "its package's process was lost to another contestant")
            return None
        try:
            reply = self._remotes[name].ask({**request, "key": entry.key}, CALL_SECONDS)
        except LostError as error:
            entry.ends(error.status, str(error))
            self._drop(name)
            return None
        if not reply["ok"]:
            entry.ends(reply["status"], reply["reason"])
            return None
        return reply

    def _prepare(self, entry: Entry, standard: _truth.Standard, scratch: Path) -> None:
        if entry.peer.name not in self._remotes:  # lost to an earlier contestant, which is out: a fresh one
            self._start(entry.peer.name, scratch)
            for other in self.entries:
                if other.peer is entry.peer and other.contest == entry.contest and other.status == "ok":
                    if other is entry:
                        break
                    self._prepare(other, standard, scratch)
        if entry.status != "ok":
            return
        file = scratch / "result.pt"
        request = {"contest": vars(entry.contest), "way": entry.offer.way, "result": str(file)}
        reply = self._ask(entry, {"do": "prepare", **request})
        if reply is None:
            return
        entry.note = reply["note"]
        entry.metrics.setdefault("prepare_seconds", reply["prepare_seconds"])
        entry.metrics.setdefault("first_call_seconds", reply["first_call_seconds"])
        if reply["compile_seconds"] is not None:
            entry.metrics.setdefault("compile_seconds", reply["compile_seconds"])
        error = standard.error(torch.load(file, weights_only=True))
        off = standard.function_error(reply["value"])
        entry.metrics.update(relative_error=error, tolerance=standard.tolerance, function_error=off)
        if not off <= standard.function_tolerance:
            entry.ends("wrong", f"its function is another one: value {reply['value']:.9g}, not {standard.function:.9g}")
        elif not error <= standard.tolerance:
            entry.ends("wrong", f"relative error {error:.3g} exceeds {standard.tolerance:.3g}")

    def _take_turns(self, ready: list[Entry]) -> None:
        shuffled = random.Random(0)
        spent = {entry.key + entry.peer.name: 0.0 for entry in ready}
        samples: dict[int, list[int]] = {id(entry): [] for entry in ready}
        for round_ in range(ROUNDS):
            turn = [e for e in ready if e.status == "ok"]
            shuffled.shuffle(turn)
            for entry in turn:
                name = entry.key + entry.peer.name
                if round_ >= LEAST_ROUNDS and spent[name] > ENOUGH_SECONDS:
                    continue
                reply = self._ask(entry, {"do": "burst", "seconds": BURST_SECONDS})
                if reply is not None:
                    samples[id(entry)] += reply["samples"]
                    spent[name] += sum(reply["samples"]) * 1e-9
                    entry.metrics["waited"] = entry.metrics.get("waited", 0) + reply["waited"]
        for entry in ready:
            if samples[id(entry)]:
                entry.samples.append(samples[id(entry)])

    def _weigh(self, entry: Entry) -> None:
        before = entry.status
        reply = self._ask(entry, {"do": "memory"})
        if reply is not None:
            entry.metrics["peak_bytes"] = reply["peak_bytes"]
            entry.metrics["memory_instrument"] = reply["instrument"]
        elif entry.status not in ("crashed", "timeout"):
            # The instrument failed, not the contestant.
            entry.missing["peak_bytes"] = entry.reason or "unknown"
            entry.status, entry.reason = before, None


def row(entry: Entry) -> dict[str, Any]:
    """The row of an entry, JSON-ready; times only where its results were right."""
    metrics = dict(entry.metrics)
    if entry.status == "ok" and not entry.samples:
        entry.ends("failed", "no call of it was timed")
    if entry.status == "ok":
        seconds = [[s * 1e-9 for s in process] for process in entry.samples]
        minima = [min(process) for process in seconds]
        metrics["seconds_min"] = min(minima)
        metrics["seconds_median"] = statistics.median([s for process in seconds for s in process])
        metrics["process_spread"] = max(minima) / min(minima) - 1
        metrics["calls"] = sum(map(len, seconds))
    else:
        for name in ("peak_bytes", "memory_instrument", "waited"):
            metrics.pop(name, None)
    return _document.row(
        entry.contest, entry.peer.name, entry.offer.way, entry.status, entry.reason, metrics, entry.missing, entry.note
    )
