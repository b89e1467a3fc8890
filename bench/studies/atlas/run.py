"""Probe operators in processes of their own: an operator that hangs or crashes costs itself only."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

LINE = 300.0
"""Seconds a worker may take for one sample before it is ended."""


class Worker:
    """A worker process, python with these arguments, and the operator that it is busy with."""

    def __init__(self, *arguments: str) -> None:
        environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        self.process = subprocess.Popen(
            [sys.executable, *(arguments or ("-m", "studies.atlas.worker"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
        self.name: str | None = None
        self.sample, self.rest = "", b""
        self.findings: list[dict[str, Any]] = []
        self.heard = time.monotonic()

    def ask(self, name: str, limit: int) -> None:
        """Send it an operator."""
        self.name, self.sample, self.findings, self.heard = name, "", [], time.monotonic()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # heard as a crash
            self.process.stdin.write(f"{name} {limit}\n".encode())
            self.process.stdin.flush()

    def hear(self) -> str:
        """Read what there is: "done", "more" or "crashed"."""
        assert self.process.stdout is not None
        read = os.read(self.process.stdout.fileno(), 1 << 20)
        self.heard = time.monotonic()
        if not read:
            return "crashed"
        *lines, self.rest = (self.rest + read).split(b"\n")
        state = "more"
        for line in lines:
            said = json.loads(line)
            self.sample = said.get("sample", self.sample)
            if "finding" in said:
                self.findings.append(said["finding"])
            state = "done" if "done" in said else state
        return state

    def lost(self, why: str) -> dict[str, Any]:
        """The finding of a sample that ended its process."""
        return {"sample": self.sample, "doubts": {"0": why}, "nodes": [], "outcomes": []}

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


def findings(
    names: Sequence[str], *, jobs: int, limit: int, seconds: float = LINE, worker: Callable[[], Any] = Worker
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each operator with its findings as JSON, in the order in which they are done."""
    waiting = list(reversed(names))
    chooser = selectors.DefaultSelector()
    active = 0

    def start(one: Any) -> None:
        nonlocal active
        one.ask(waiting.pop(), limit)
        chooser.register(one.process.stdout, selectors.EVENT_READ, one)
        active += 1

    def release(one: Any) -> None:
        nonlocal active
        chooser.unregister(one.process.stdout)
        active -= 1

    try:
        for _ in range(min(jobs, len(waiting))):
            start(worker())
        while active:
            ready = [key.data for key, _ in chooser.select(timeout=min(5.0, seconds))]
            for one in [key.data for key in chooser.get_map().values()]:
                late = time.monotonic() - one.heard > seconds
                state = one.hear() if one in ready else "late" if late else "more"
                if state == "more":
                    continue
                release(one)
                if state != "done":
                    one.end()
                    code = one.process.returncode
                    why = f"no answer within {seconds:.0f} s" if state == "late" else f"the process died ({code})"
                    one.findings.append(one.lost(why))
                yield one.name, one.findings
                if waiting:
                    start(one if state == "done" else worker())
                elif state == "done":
                    one.end()
    finally:
        for key in list(chooser.get_map().values()):
            key.data.end()


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
