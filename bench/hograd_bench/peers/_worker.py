"""One peer in a process of its own: JSON lines in, JSON lines out. ``python -m hograd_bench.peers._worker PEER``.

So no peer's import, hooks, threads or crash can touch another, and all can be timed in turns. Requests:
{"do": "hello"} | {"do": "prepare", "contest": {...}, "way", "result": file} | {"do": "burst", "seconds"}
| {"do": "memory"} | {"do": "quit"}, the middle two of the contestant prepared as "key". Each gets one reply with
"ok": true, or "ok": false with "status" and "reason".
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import os
import sys
import time
import warnings
from typing import Any

import torch
from torch import Tensor

from hograd_bench.gate.twins.worker import die_with_parent, waited
from hograd_bench.metrics._allocations import trace
from hograd_bench.metrics.time import collector_off
from hograd_bench.peers import Contest, Contestant, Peer, Task, peers
from hograd_core import UnsupportedError
from hograd_core._unsupported import pytorch_limit

WARM_CALLS = 2
MOST_SAMPLES = 2000
"""Calls of one burst; a peer that takes microseconds must not fill the pipe."""


def flat(result: Any) -> Tensor:
    """Tensors of a result, concatenated flat in float64."""
    leaves = result if isinstance(result, list | tuple) else [result]
    return torch.cat([torch.as_tensor(leaf).detach().to("cpu", torch.float64).reshape(-1) for leaf in leaves])


def first_line(error: BaseException) -> str:
    """Type and first line of an error's message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


class Worker:
    """State of the process: the peer, and the contestants of the current contest."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.tasks: dict[str, Task] = {}
        self.ready: dict[str, Contestant] = {}

    def hello(self, request: dict[str, Any]) -> dict[str, Any]:
        """Import the peer and say which version it is."""
        importlib.import_module(self.peer.module)
        return {"version": importlib.metadata.version(self.peer.distribution), "torch": str(torch.__version__)}

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Build a contestant, call it, leave the result in a file and warm it up."""
        contest = Contest(**request["contest"])
        if contest.id not in self.tasks:
            gc.unfreeze()
            self.tasks, self.ready = {contest.id: Task(contest)}, {}
        (offer,) = (o for o in self.peer.offered(contest) if o.way == request["way"])
        start = time.perf_counter()
        contestant = offer.build(self.tasks[contest.id])
        prepared = time.perf_counter()
        result = contestant.call()
        called = time.perf_counter()
        torch.save((contestant.flat or flat)(result), request["result"])
        del result
        for _ in range(WARM_CALLS):
            contestant.call()
        self.ready[request["key"]] = contestant
        gc.collect()
        gc.freeze()  # what packages imported and cached is no garbage: collections between bursts stay short
        return {
            "value": float(contestant.value()),
            "prepare_seconds": prepared - start,
            "first_call_seconds": called - prepared,
            "compile_seconds": contestant.compile_seconds,
            "note": contestant.note,
        }

    def burst(self, request: dict[str, Any]) -> dict[str, Any]:
        """Nanoseconds of each call of a burst of about ``seconds``, at least one.

        As in the gate: a call whose thread never gave up its core of its own accord was runnable throughout, so what
        its wall time exceeds the process's CPU time by, other processes took, and the CPU time counts. A call that
        waited counts by the wall clock; ``waited`` is how many did.
        """
        call, wall, own = self.ready[request["key"]].call, time.perf_counter_ns, time.process_time_ns
        samples: list[int] = []
        by_wall = 0
        with collector_off():
            end = wall() + int(request["seconds"] * 1e9)
            while not samples or (wall() < end and len(samples) < MOST_SAMPLES):
                waits = waited()
                start, used = wall(), own()
                call()
                used = own() - used
                lasted = wall() - start
                if waited() != waits:
                    by_wall += 1
                    used = lasted
                samples.append(used)
        return {"samples": samples, "waited": by_wall}

    def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        """Most bytes that a call holds at once, and the instrument."""
        contestant = self.ready[request["key"]]
        if contestant.memory is not None:
            read = contestant.memory()
            return {"peak_bytes": read.peak_bytes, "instrument": read.instrument}
        return {"peak_bytes": trace(contestant.call).peak_bytes, "instrument": "PyTorch allocator events"}


def attempt(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request; what goes wrong is said in the words of the suite's statuses."""
    try:
        return {"ok": True, **getattr(worker, request["do"])(request)}
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        return {"ok": False, "status": "failed", "reason": first_line(error)}
    except UnsupportedError as error:
        return {"ok": False, "status": "unsupported", "reason": error.reason}
    except MemoryError as error:
        return {"ok": False, "status": "oom", "reason": first_line(error)}
    except Exception as error:  # whatever a foreign package raises is its row's reason
        if type(error) is LookupError:  # an adapter's own word that it cannot take the problem; a KeyError is a fault
            return {"ok": False, "status": "unsupported", "reason": str(error)[:300]}
        limit = pytorch_limit(error) if isinstance(error, RuntimeError | AssertionError) else None
        return {"ok": False, "status": "unsupported" if limit else "failed", "reason": limit or first_line(error)}


def main() -> None:
    """Answer requests until "quit" or the end of input."""
    die_with_parent(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    worker = Worker(peers()[sys.argv[2]])
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            return
        answers.write(json.dumps(attempt(worker, request)) + "\n")


if __name__ == "__main__":
    main()
