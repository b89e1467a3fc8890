"""The timing gate's loop: fresh process pairs until every cell has its verdict, or pairs or time run out."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hograd_bench.engine import FATAL
from hograd_bench.gate import agreement
from hograd_bench.gate.outcome import Finding
from hograd_bench.gate.revisions.sides import Side, Twin
from hograd_bench.gate.statistics import policy
from hograd_bench.gate.statistics.policy import Policy, Verdict
from hograd_bench.gate.twins import processes
from hograd_bench.gate.twins.processes import Turns, Worker, WorkerError
from hograd_bench.scratch import scratch

STRIKES = 2


@dataclass
class Timed:
    """Result of the timing gate.

    Attributes:
        verdicts: verdict by twin name, for those whose both sides ran.
        findings: wrong, missing, broken, new and skipped cells.
        pairs: for each process pair, twin name -> its turns.
        starts: of each process pair that came to a turn, seconds of its imports and of its preparation of the cells.
        seconds: wall time.
    """

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    pairs: list[dict[str, Turns]] = field(default_factory=list)
    starts: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Loop:
    """Fresh process pairs of two sides, and what they have shown so far."""

    a: Side
    b: Side
    rng: random.Random
    folder: Path
    found: Timed = field(default_factory=Timed)
    call_ns: dict[str, float] = field(default_factory=dict)
    strikes: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    allowed: dict[str, float] = field(default_factory=dict)
    seconds_per_pair: float = processes.SECONDS_PER_PAIR

    def prepare(self, a: Worker, b: Worker, twin: Twin) -> bool:
        """Prepare a twin on both sides; False where it leaves the run, with a finding that says why."""
        paths, said = self.ask(a, b, twin, "prepare")
        for reply in said:
            if isinstance(reply, WorkerError) and reply.status in FATAL:
                raise reply
        if any(isinstance(reply, WorkerError) for reply in said):
            self.found.findings.append(_unprepared(twin, *said))
            return False
        first, second = (r for r in said if isinstance(r, dict))
        self.allowed[twin.name] = allowed = max(first["allowed"], second["allowed"])
        why = agreement.disagreement(*paths, first["shapes"], second["shapes"], allowed)
        if why is None and twin.name not in self.call_ns:
            self.call_ns[twin.name] = min(first["call_ns"], second["call_ns"])
        if why is not None:
            self.found.findings.append(Finding("wrong", twin.name, "result", f"the sides disagree: {why}"))
        return why is None

    def check(self, a: Worker, b: Worker, twin: Twin) -> None:
        """Compare results once more, after the turns: a kernel may have gone wrong on the way."""
        paths, said = self.ask(a, b, twin, "check")
        for reply in said:
            if isinstance(reply, WorkerError):
                raise reply
        first, second = (r for r in said if isinstance(r, dict))
        why = agreement.disagreement(*paths, first["shapes"], second["shapes"], self.allowed[twin.name])
        if why is not None:
            self.found.findings.append(
                Finding("wrong", twin.name, "result", f"the sides agree at first, and disagree after many calls: {why}")
            )

    def ask(
        self, a: Worker, b: Worker, twin: Twin, do: str
    ) -> tuple[tuple[Path, Path], list[dict[str, Any] | WorkerError]]:
        """Ask both sides for a result of a twin: its files, and what A and B said."""
        paths = self.folder / "a.f64", self.folder / "b.f64"
        asked = [(a, twin.a, paths[0]), (b, twin.b, paths[1])]
        self.rng.shuffle(asked)  # whatever comes first or second must be so by a coin: the rule assumes nothing else
        for worker, cell, path in asked:
            worker.send({"do": do, "cell": cell, "result": str(path)})
        return paths, [processes.reply(a), processes.reply(b)]

    def pair(self, left: Sequence[Twin]) -> dict[str, Turns]:
        """One fresh process pair over the twins that are left."""
        seen: dict[str, Turns] = {}
        threads = max(int(t.a.split("/")[6][1:]) for t in left)
        current: Twin | None = None
        b: Worker | None = None
        begun = time.monotonic()
        try:
            with processes.pair(self.a, self.b, self.rng, threads) as (a, b):
                imported = time.monotonic()
                ready = []
                for twin in left:
                    current = twin
                    if self.prepare(a, b, twin):
                        ready.append(twin)
                if threads == 1:  # after imports and preparations, which two cores do in half the time
                    processes.share_a_core(a, b, self.rng)
                self.found.starts.append((imported - begun, time.monotonic() - imported))
                # A stretch of every cell in turn, over and over: a cell's stretches lie seconds apart, so that a spell
                # of transient noise does not cover all of them.
                for _ in range(processes.STRETCHES):
                    for twin in ready:
                        current = twin
                        call_ns = self.call_ns[twin.name]
                        turns = processes.turns_for(call_ns, len(ready), self.seconds_per_pair) // processes.STRETCHES
                        calls = processes.calls_for(call_ns)
                        seconds = 2 * (turns + 1) * calls * call_ns / 1e9
                        stretch = processes.take_turns(a, b, twin.a, twin.b, calls, turns, self.rng, seconds)
                        kept = seen.setdefault(twin.name, Turns())
                        kept.a += stretch.a
                        kept.b += stretch.b
                for twin in ready:
                    current = twin
                    self.check(a, b, twin)
        except WorkerError as error:
            if current is None:
                raise
            self.strike(current, "B" if error.worker is b else "A", error)
        self.found.pairs.append(seen)
        return seen

    def strike(self, twin: Twin, side: str, error: WorkerError) -> None:
        """A side failed, died or hung on a twin: after the second time it leaves the run."""
        said = self.strikes.setdefault((twin.name, side), [])
        said.append(f"{error.status}: {error}")
        if len(said) >= STRIKES:
            kind = "broken" if side == "B" else "skipped"
            self.found.findings.append(
                Finding(kind, twin.name, "", f"side {side}, in {len(said)} process pairs, {said[-1]}")
            )

    def once(self) -> list[Finding]:
        """What B did wrong in a single process pair: too little to leave the run, too much to be silent about."""
        struck = [(name, said) for (name, side), said in self.strikes.items() if side == "B" and len(said) < STRIKES]
        pairs = len(self.found.pairs)
        return [Finding("unsteady", name, "", f"side B, in 1 of {pairs} process pairs, {s[0]}") for name, s in struck]


def _unprepared(twin: Twin, a: dict[str, Any] | WorkerError, b: dict[str, Any] | WorkerError) -> Finding:
    """What it means that a cell could not be prepared on one side or on both."""
    if isinstance(b, WorkerError) and not isinstance(a, WorkerError):
        kind = "missing" if b.status == "missing" else "broken"
        return Finding(kind, twin.name, "", f"runs on A, {b.status} on B: {b}")
    if isinstance(a, WorkerError) and not isinstance(b, WorkerError):
        return Finding("new", twin.name, "", f"runs on B, {a.status} on A: {a}")
    assert isinstance(a, WorkerError)
    return Finding("skipped", twin.name, "", f"{a.status} on both sides: {a}")


def compare(
    a: Side,
    b: Side,
    cells: Sequence[Twin],
    rules: Policy,
    *,
    seed: int,
    log: Callable[[str], None] = lambda line: None,
) -> Timed:
    """Compare the time of cells on two sides.

    Args:
        a: the base.
        b: the side that may be slower.
        cells: what to compare.
        rules: thresholds and budgets.
        seed: of the coins that decide who goes first.
        log: gets a line of progress after every pair.

    Returns:
        Verdicts, findings and every pair's turns.

    Raises:
        WorkerError: a side cannot even start ("no suite", "crashed", "timeout").
    """
    start = time.monotonic()
    with scratch() as folder:
        loop = Loop(a, b, random.Random(seed), folder)
        progress = policy.Progress([t.name for t in cells], rules)
        left, family = list(cells), len(cells)
        last = 0.0
        while left and len(loop.found.pairs) < rules.max_pairs:
            before = time.monotonic()
            if loop.found.pairs and before - start + last > rules.max_seconds:
                break
            seen = loop.pair(left)
            last = time.monotonic() - before
            for finding in loop.found.findings:
                progress.drop(finding.cell)
            progress.add({name: processes.reading(turns.log_ratios()) for name, turns in seen.items()})
            left = [t for t in cells if t.name in progress.left]
            log(f"pair {len(loop.found.pairs)}: {len(left)} of {family} cells undecided")
    found = loop.found
    dropped = {f.cell for f in found.findings}
    found.verdicts = {name: v for name, v in progress.conclude().items() if name not in dropped}
    found.findings += [
        Finding("inconclusive", t.name, "time", "no process pair finished on this cell in the time allowed")
        for t in cells
        if t.name not in dropped and t.name not in found.verdicts
    ]
    found.findings += [f for f in loop.once() if f.cell not in dropped]
    found.seconds = time.monotonic() - start
    return found
