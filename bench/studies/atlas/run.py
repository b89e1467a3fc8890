"""Probe operators in processes of their own: an operator that hangs or crashes costs itself only."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from hograd_bench.engine import Child

LINE = 300.0
"""Seconds a worker may take for one sample before it is ended."""


class Worker:
    """A worker process, python with these arguments, and the operator that it is busy with."""

    def __init__(self, *arguments: str) -> None:
        environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        self.child = Child([sys.executable, *(arguments or ("-m", "studies.atlas.worker"))], environment=environment)
        self.name, self.sample = "", ""
        self.findings: list[dict[str, Any]] = []
        self.heard = time.monotonic()

    def ask(self, name: str, limit: int) -> None:
        """Send it an operator."""
        self.name, self.sample, self.findings, self.heard = name, "", [], time.monotonic()
        self.child.send([name, limit])

    def hear(self) -> str:
        """Read what there is: "done", "more" or "crashed"."""
        alive, self.heard = self.child.read(), time.monotonic()
        state = "more" if alive else "crashed"
        while self.child.messages:
            said = self.child.messages.popleft()
            self.sample = said.get("sample", self.sample)
            if "finding" in said:
                self.findings.append(said["finding"])
            state = "done" if "done" in said else state
        return state

    def lost(self, why: str) -> dict[str, Any]:
        """The finding of a sample that ended its process."""
        return {"sample": self.sample, "doubts": {"0": why}, "nodes": [], "outcomes": []}


def findings(
    names: Sequence[str], *, jobs: int, limit: int, seconds: float = LINE, worker: Callable[[], Worker] = Worker
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each operator with its findings as JSON, in the order in which they are done."""
    waiting = list(reversed(names))
    active: list[Worker] = []

    def start(one: Worker) -> None:
        active.append(one)
        one.ask(waiting.pop(), limit)

    try:
        for _ in range(min(jobs, len(waiting))):
            start(worker())
        while active:
            ready = wait([one.child.fileno() for one in active], min(5.0, seconds))
            for one in list(active):
                late = time.monotonic() - one.heard > seconds
                state = one.hear() if one.child.fileno() in ready else "late" if late else "more"
                if state == "more":
                    continue
                active.remove(one)
                if state != "done":
                    ended = f"no answer within {seconds:.0f} s" if state == "late" else one.child.death()[1]
                    one.findings.append(one.lost(ended))
                found = one.name, one.findings
                if state == "done" and waiting:
                    start(one)
                else:
                    one.child.close()
                    if waiting:
                        start(worker())
                yield found
    finally:
        for one in active:
            one.child.close()


def recorded(path: Path) -> dict[str, list[dict[str, Any]]]:
    """What an earlier, interrupted run has found; a torn last line is left out."""
    found = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                name, results = json.loads(line)
            except ValueError:
                continue
            found[name] = results
    return found


def run(names: Sequence[str], path: Path, *, jobs: int, limit: int, say: Callable[[str], None]) -> None:
    """Probe what ``path`` does not hold yet and append a line for each operator."""
    done = recorded(path)
    left = [n for n in names if n not in done]
    if done:
        say(f"{len(done)} operators from {path.name}, {len(left)} left")
    began, reported = time.monotonic(), 0.0
    with path.open("a", encoding="utf-8") as out:
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            out.write("\n")
        for count, (name, results) in enumerate(findings(left, jobs=jobs, limit=limit), 1):
            out.write(json.dumps([name, results]) + "\n")
            out.flush()
            spent = time.monotonic() - began
            if spent - reported > 15 or count == len(left):
                reported = spent
                eta = spent / count * (len(left) - count)
                say(f"{count}/{len(left)} operators, {spent:.0f} s, about {eta:.0f} s to go; {name}")
