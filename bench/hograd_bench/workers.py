"""Runs a plan in worker processes, so that no cell can take the sweep down with it.

A worker is pytest on the sweeps room: it appends each row itself and tells through a pipe which cell it is in.
This process watches: a worker that dies or overstays is replaced, the cell it was in becomes a row that says
so, and larger cells of the same work are skipped. Only whoever measured a cell, or saw its worker die, writes
its row, so there is exactly one.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hograd_bench import plan, schema, store
from hograd_bench.plan import Planned

Isolation = Literal["auto", "always", "never"]

ISOLATE_ABOVE = 2**28
"""Result bytes from which a cell gets a process of its own under --isolate auto. Peaks are a small multiple of
the result for full tensors, so this is about a gigabyte of footprint."""

ROUNDS = (
    "--benchmark-disable-gc",
    "--benchmark-min-rounds=5",
    "--benchmark-max-time=0.05",
    "--benchmark-warmup=off",
)
"""How pytest-benchmark times a cell: rounds for 50 ms but at least five, collector off; the warm-up was the check
against truth."""

_START_SECONDS = 180.0  # importing torch and collecting on a busy machine
FATAL = ("oom", "timeout", "crashed")


class WorkerError(RuntimeError):
    """The workers themselves cannot work (as opposed to a cell): the message carries their last words."""


@dataclass(frozen=True)
class Limits:
    """What a cell may take.

    Attributes:
        seconds: wall-clock limit of one cell.
        memory: limit on a worker's private memory in bytes (RLIMIT_DATA, Linux), or None.
        isolate: "always": a process a cell; "auto": for cells predicted or known to be large; "never".
        resident: also measure each cell's peak of resident memory, in a further process.
    """

    seconds: float = 120.0
    memory: int | None = None
    isolate: Isolation = "auto"
    resident: bool = False


@dataclass(frozen=True)
class Event:
    """One cell settled: what a progress display hears."""

    planned: Planned
    status: str
    reason: str


def execute(
    plans: Sequence[Planned],
    run: store.Run,
    limits: Limits,
    heard: Callable[[Event], None] = lambda event: None,
    *,
    troubled: Iterable[str] = (),
    problem_files: Sequence[Path] = (),
) -> None:
    """Measure every planned cell that has no row in ``run`` yet; each becomes a row.

    Args:
        plans: the cells; those with ``skip`` become rows with that reason.
        run: where rows go.
        limits: see :class:`Limits`.
        heard: called after each cell settled.
        troubled: ids of cells that ran out of memory or time before, or were large: isolated under "auto".
        problem_files: files that declare further problems, loaded by each worker.

    Raises:
        WorkerError: a worker cannot start at all.
        KeyboardInterrupt: after the workers were stopped; finished rows are kept.
    """
    done = run.finished_cells()
    queue = [p for p in plans if p.cell.id not in done]
    known_trouble = set(troubled)

    def settle(planned: Planned, status: str, reason: str, *, write: bool) -> None:
        if write:
            run.append(schema.row(planned.cell, status=status, reason=reason))
        heard(Event(planned, status, reason))

    for planned in [p for p in queue if p.skip is not None]:
        settle(planned, "skipped", planned.skip or "", write=True)
    queue = [p for p in queue if p.skip is None]

    while queue:
        batch = _next_batch(queue, limits.isolate, known_trouble)
        for planned, status, reason, written in _work(batch, run, limits, problem_files):
            settle(planned, status, reason, write=not written)
            queue.remove(planned)
            if status in FATAL:
                why = f"dominated: {planned.cell.id} ended as {status}"
                for larger in [p for p in queue if p.cell.dominates(planned.cell)]:
                    settle(larger, "skipped", why, write=True)
                    queue.remove(larger)
                break  # the rest of the batch may have shrunk: plan it anew


def _is_large(planned: Planned, troubled: set[str]) -> bool:
    return planned.cell.id in troubled or plan.predicted_bytes(planned.cell) > ISOLATE_ABOVE


def _next_batch(queue: list[Planned], isolate: Isolation, troubled: set[str]) -> list[Planned]:
    """The cells that the next worker gets: one where it must be alone, else as many as may share."""
    if isolate == "always":
        return queue[:1]
    if isolate == "never":
        return list(queue)
    sharing = [p for p in queue if not _is_large(p, troubled)]
    return sharing or queue[:1]


def _work(
    batch: Sequence[Planned], run: store.Run, limits: Limits, problem_files: Sequence[Path]
) -> Iterable[tuple[Planned, str, str, bool]]:
    """Yield (cell, status, reason, whether the worker wrote the row) as cells of one worker settle.

    Closing the generator stops the worker. Ends early when the worker is lost: its cell is the last yielded.
    """
    by_id = {p.cell.id: p for p in batch}
    with tempfile.TemporaryDirectory(prefix="hograd-") as folder:
        cells = Path(folder, "cells.jsonl")
        cells.write_text("".join(json.dumps(p.to_json()) + "\n" for p in batch), encoding="utf-8")
        log = Path(folder, "worker.log")
        reader, writer = os.pipe()
        with log.open("wb") as output:
            worker = _start(cells, run.path, writer, limits, problem_files, output)
        os.close(writer)
        try:
            in_flight: str | None = None
            for event in _events(reader, limits.seconds):
                if event is None:  # overstayed
                    _kill(worker)
                    if in_flight is None:
                        raise WorkerError(f"a worker did not start within {_START_SECONDS:.0f} s:\n{_tail(log)}")
                    yield by_id[in_flight], "timeout", f"over the limit of {limits.seconds:g} s a cell", False
                    return
                if event["event"] == "start":
                    in_flight = event["cell"]
                else:
                    in_flight = None
                    yield by_id.pop(event["cell"]), event["status"], event["reason"], True
            code = worker.wait()
            if in_flight is not None:
                # The worker may have died between writing the row and saying so.
                written = in_flight in run.finished_cells()
                status, reason = ("crashed", "lost after its row was written") if written else _death(code, log)
                yield by_id[in_flight], status, reason, written
            elif by_id:
                raise WorkerError(
                    f"a worker ended with exit code {code} before {len(by_id)} of its cells:\n{_tail(log)}"
                )
        finally:
            _kill(worker)
            os.close(reader)


def _start(
    cells: Path, run: Path, events: int, limits: Limits, problem_files: Sequence[Path], output: Any
) -> subprocess.Popen[bytes]:
    """Start pytest on the sweeps in a session of its own, so that Ctrl-C reaches this process alone."""
    sweeps = Path(__file__).with_name("sweeps")
    command = [
        sys.executable, "-m", "pytest", "-c", str(sweeps / "pytest.ini"), str(sweeps),
        f"--hograd-cells={cells}", f"--hograd-run={run}", f"--hograd-events={events}",
        *(f"--hograd-problems={path}" for path in problem_files),
        *(["--hograd-resident"] if limits.resident else []),
        *ROUNDS, "--benchmark-quiet", "--benchmark-columns=min",
    ]  # fmt: skip
    if sys.platform == "win32":
        raise WorkerError("hograd run needs a POSIX system: workers are watched through inherited pipes")
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=(events,),
        start_new_session=True,
        preexec_fn=lambda: _bound(limits.memory),
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def _bound(memory: int | None) -> None:
    """In the child: die with the parent (a killed sweep leaves no worker behind), and keep to the memory limit."""
    import resource

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def _events(reader: int, cell_seconds: float) -> Iterable[dict[str, Any] | None]:
    """Events of the pipe as they come; None when a cell, or the time between cells, lasts too long.

    Ends when the worker does.
    """
    buffered = b""
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                yield None
                return
            chunk = os.read(reader, 65536)
            if not chunk:
                return
            *lines, buffered = (buffered + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                deadline = time.monotonic() + (cell_seconds if event["event"] == "start" else _START_SECONDS)
                yield event


def _death(code: int, log: Path) -> tuple[str, str]:
    """Status and reason of a cell whose worker died in it."""
    if code == -signal.SIGKILL:
        return "oom", "its process was killed (SIGKILL), which on Linux is what running out of memory looks like"
    if code < 0:
        return "crashed", f"its process died of {signal.Signals(-code).name}"
    return "crashed", f"its process ended with exit code {code}: {_tail(log, 1)}"


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:])


def _kill(worker: subprocess.Popen[bytes]) -> None:
    if worker.poll() is None:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
