"""One side of the gate, in a process of its own: JSON lines in, JSON lines out.

Run as a script (``python worker.py READ WRITE ROOT [ROOT...]``) by the gate of the current tree, against the
``hograd_core`` and ``hograd_bench`` of ROOT, which may be an older revision, another environment or another
project: both sides are timed by the same instrument. It needs nothing but the standard library until it imports that
side's suite, and of that suite only ``Cell``, ``Subject`` and ``metrics/steadiness.py``. The engine's ``Child`` starts
it and sees that it ends.

Requests: {"do": "hello", "plugins": [...]} | {"do": "prepare", "cell", "result"} | {"do": "check", "cell", "result"}
| {"do": "turns", "cell", "calls", "turns", "begins", "patience"} | {"do": "quit"}.
Each gets one reply with "ok": true, or "ok": false with "status" and "reason". During "turns" the two workers of a
pair hand the turn to each other through the pipes READ and WRITE (-1: there is no other side).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import sys
import time

if sys.platform == "linux":
    import resource
from collections.abc import Callable
from typing import Any

WARM_CALLS = 3


class RefusalError(Exception):
    """The request cannot be met; ``status`` says why in one word."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def waited() -> int:
    """How often this thread gave up its core of its own accord; changes at every call where that is unknown."""
    if sys.platform != "linux":
        return time.perf_counter_ns()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class Baton:
    """The turn, handed from one worker to the other by a byte."""

    GO, STOP = b".", b"!"

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write = read, write

    def take(self, patience: float) -> None:
        """Wait for the turn.

        Raises:
            RefusalError: the other side stopped, ended, or did not hand over within ``patience`` seconds.
        """
        ready = select.select([self.read], [], [], patience)[0]
        if not ready or os.read(self.read, 1) != self.GO:
            how = "stopped or ended" if ready else f"did not hand over within {patience:g} s"
            raise RefusalError("waited", f"the other side {how}")

    def hand_over(self, what: bytes = GO) -> None:
        """Give the turn away; a partner that is gone is the parent's business."""
        try:
            os.write(self.write, what)
        except OSError:
            return


class Worker:
    """State of the process: the side's suite and the prepared cells."""

    def __init__(self, baton: Baton) -> None:
        self.baton = baton
        self.calls: dict[str, Callable[[], Any]] = {}
        self.subjects: dict[str, Any] = {}

    def hello(self, request: dict[str, Any]) -> dict[str, Any]:
        """Import the side's suite and say what this side is."""
        try:
            import torch

            core = importlib.import_module("hograd_core")
            importlib.import_module("hograd_bench.cells")
            importlib.import_module("hograd_bench.metrics")
        except ImportError as error:
            raise RefusalError("no suite", f"{type(error).__name__}: {error}") from error
        if request["plugins"]:
            from hograd_bench.engine import child

            child.load({"plugins": request["plugins"], "problem_files": []})
        torch.set_num_threads(1)
        gc.collect()
        gc.freeze()  # imports are not garbage: collections between turns stay short
        return {"suite": os.path.realpath(str(core.__file__))}

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Build a cell, call it once, leave its result in a file, warm it up and say what a call takes."""
        import torch
        from hograd_bench.metrics.steadiness import allowed, save

        cell_id = request["cell"]
        subject = self.subjects[cell_id] = made(cell_id)
        torch.set_num_threads(subject.cell.threads)
        if subject.cell.device == "cuda":
            torch.cuda.synchronize()
        shapes = save(attempt(lambda: seeded(subject)), request["result"])
        for _ in range(WARM_CALLS):
            attempt(subject.call)
        self.calls[cell_id] = subject.call
        taken = self.timed(cell_id, 3)
        gc.freeze()  # what the first calls imported and cached stays: collections between turns remain short
        return {"call_ns": min(taken), "shapes": shapes, "allowed": allowed(subject)}

    def check(self, request: dict[str, Any]) -> dict[str, Any]:
        """Call a prepared cell again and leave its result in a file: it must still be right after its turns."""
        from hograd_bench.metrics.steadiness import save

        return {"shapes": save(attempt(lambda: seeded(self.subjects[request["cell"]])), request["result"])}

    def timed(self, cell_id: str, calls: int) -> list[int]:
        """Nanoseconds of each of ``calls`` calls, the collector off, garbage of the turn cleared afterwards.

        A call that never gave up its core of itself was runnable throughout: what its wall time exceeds its CPU
        time by, others took, and the CPU time counts. A call that waited (a lock, a sleep, a file, another thread)
        and one on a GPU or on several threads counts by the wall clock.
        """
        import torch

        subject, call = self.subjects[cell_id], self.calls[cell_id]
        cuda = subject.cell.device == "cuda"
        torch.set_num_threads(subject.cell.threads)
        wall, own, taken = time.perf_counter_ns, time.thread_time_ns, []
        by_wall = cuda or subject.cell.threads > 1
        gc.disable()
        try:
            for _ in range(calls):
                waits = waited()
                start, used = wall(), own()
                call()
                if cuda:
                    torch.cuda.synchronize()
                used = own() - used
                lasted = wall() - start
                taken.append(lasted if by_wall or waited() != waits else used)
        finally:
            gc.enable()
            gc.collect()
        return taken

    def turns(self, request: dict[str, Any]) -> dict[str, Any]:
        """Alternate with the other side; the reply carries minimum, median, mean and number of calls of each turn.

        The turn before the first is not kept: it finds the caches full of another cell.
        """
        kept: list[dict[str, float]] = []
        begins, count = bool(request["begins"]), int(request["turns"])
        for number in range(count + 1):
            if number or not begins:
                self.baton.take(float(request["patience"]))
            try:
                taken = sorted(attempt(lambda: self.timed(request["cell"], int(request["calls"]))))
            except RefusalError:
                self.baton.hand_over(Baton.STOP)
                raise
            if number < count or begins:  # the very last turn has no next
                self.baton.hand_over()
            kept.append(
                {
                    "min": taken[0],
                    "median": taken[len(taken) // 2],
                    "mean": sum(taken) / len(taken),
                    "calls": len(taken),
                }
            )
        return {"turns": kept[1:]}


def made(cell_id: str) -> Any:
    """The cell made callable."""
    from hograd_bench.cells import Cell
    from hograd_bench.metrics import Subject

    try:
        return Subject(Cell.parse(cell_id))
    except (ValueError, KeyError) as error:  # this side has no such method, problem or kind of cell
        raise RefusalError("missing", str(error).strip("'\"")) from error


def seeded(subject: Any) -> Any:
    """The cell's call from the same random numbers each time."""
    import torch

    torch.manual_seed(0)
    result = subject.call()
    return subject.tensors(result) if hasattr(subject, "tensors") else result  # an older suite has no peers


def attempt(call: Callable[[], Any]) -> Any:
    """The call's result; what goes wrong is said in the words of the suite's statuses."""
    try:
        return call()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        unsupported = type(error).__name__ == "UnsupportedError"
        reason = getattr(error, "reason", lines[0]) if unsupported else f"{type(error).__name__}: {lines[0]}"
        raise RefusalError("unsupported" if unsupported else "failed", str(reason)) from error


def serve(baton: Baton) -> int:
    """Answer requests until "quit" or the end of input."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    worker = Worker(baton)
    for line in sys.stdin:
        request = json.loads(line)
        do = request["do"]
        if do == "quit":
            return 0
        try:
            reply = {"ok": True, **getattr(worker, do)(request)}
        except RefusalError as error:
            reply = {"ok": False, "status": error.status, "reason": str(error)}
        except Exception as error:
            reply = {"ok": False, "status": "failed", "reason": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(reply, default=str) + "\n")
    return 0


if __name__ == "__main__":
    # The script's own folder (its siblings could hide modules) gives way to the side's roots.
    sys.path[0:1] = sys.argv[3:]
    # Nothing is left to tidy up: without the interpreter's and torch's teardown the next pair starts sooner.
    os._exit(serve(Baton(int(sys.argv[1]), int(sys.argv[2]))))
