"""Peers and documents that exist nowhere, for the tests of the peers room."""

from __future__ import annotations

import json

import torch
from hograd_bench.peers import Contest, Contestant, Peer, _document
from hograd_bench.peers._remote import LostError
from hograd_bench.peers._worker import Worker, attempt

CONTEST = Contest("hvp", "quadratic", 4)
ENVIRONMENT = {
    "machine": "m-1",
    "recorded": "2026-01-02T03:04:05+00:00",
    "cpu": {"model": "CPU"},
    "torch": {"version": "2.13.0", "capability": "AVX2"},
}


class Death(BaseException):
    """Raised by a contestant: its process is gone."""


class Hang(BaseException):
    """Raised by a contestant: its process answers no more."""


class FakeRemote:
    """A worker in this process."""

    peers: dict[str, Peer] = {}  # noqa: RUF012 (filled by each test)
    started: list[str] = []  # noqa: RUF012

    def __init__(self, peer, variables, cpu):
        self.started.append(peer)
        self._worker = Worker(self.peers[peer])

    def ask(self, request, seconds):
        try:
            return json.loads(json.dumps(attempt(self._worker, json.loads(json.dumps(request)))))
        except Death:
            raise LostError("crashed", "its process ended with SIGSEGV: boom") from None
        except Hang:
            raise LostError("timeout", "no answer within 1 s") from None

    def close(self):
        pass


def peer(name: str, **calls) -> Peer:
    """A peer with a way for each keyword: a function task -> result, or an exception to raise at the call."""
    made = Peer(name, distribution="torch", module="torch", home="nowhere")

    def declare(way, compute):
        def build(task):
            def call():
                if isinstance(compute, BaseException):
                    raise compute
                return compute(task)

            return Contestant(call, task.value, note="a note")

        made.offer("hvp", way)(build)

    for way, compute in calls.items():
        declare(way, compute)
    return made


def right(task):
    """The right product."""
    (g,) = torch.autograd.grad(task.f(x := task.x.clone().requires_grad_()), x, create_graph=True)
    return torch.autograd.grad(g, x, task.v)[0]


def row(peer="P", way="w", seconds=1e-3, status="ok", reason=None, contest=CONTEST, spread=0.0, **metrics):
    """A row of a document."""
    read = {
        "relative_error": 1e-7,
        "tolerance": 1e-4,
        "peak_bytes": 2048,
        "memory_instrument": "PyTorch allocator events",
    }
    if status == "ok":
        read |= {"seconds_min": seconds, "seconds_median": seconds, "process_spread": spread, "calls": 10}
    return _document.row(contest, peer, way, status, reason, read | metrics, {}, "")


def package(name, framework="PyTorch", version="1.0", reason=None, distribution=None, home="there"):
    """A package's entry of a document."""
    return {
        "name": name,
        "distribution": distribution or name.lower(),
        "home": home,
        "framework": framework,
        "version": version,
        "reason": reason,
    }


def document(rows, packages=None):
    """A document."""
    settings = {"command": "hograd peers --run", "processes": 2, "rounds": 8, "threads": 1, "wall_seconds": 1.0}
    names = dict.fromkeys(r["peer"] for r in rows)
    return _document.document(ENVIRONMENT, settings, packages or [package(n) for n in names], rows)
