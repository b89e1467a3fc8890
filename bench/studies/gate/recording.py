"""Recorded process pairs and whole runs: the study's raw data, one JSON object a line, gzipped."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from hograd_bench.gate.statistics.policy import Reading
from hograd_bench.gate.twins.processes import Turns, reading

from studies.gate.rules import Process

SCHEMA = 3
SAMPLE_NS = 10e6  # asv's default
TURN_DIGITS = 4  # of a log-ratio: a hundredth of a percent, far below the noise of a turn


@dataclass(frozen=True, eq=False)
class Recorded:
    """One fresh process pair over all timed cells; equal to itself alone.

    Attributes:
        factor: slowdown planted in every cell of side B; 1.0: identical sides.
        cells: cell -> (A, B).
        turns: cell -> log-ratio of each turn (``Turns.log_ratios``), in order: what the gate reads.
        load: load average of the machine when it was made.
        imports, preparation: seconds that its start and the preparation of all cells took.
    """

    factor: float
    cells: Mapping[str, tuple[Process, Process]]
    turns: Mapping[str, Sequence[float]]
    load: float = 0.0
    imports: float = 0.0
    preparation: float = 0.0

    def reading(self, cell: str, turns: int | None = None) -> Reading:
        """What the gate reads of a cell in its first turns (all where None)."""
        return reading(self.turns[cell][:turns])


@dataclass(frozen=True)
class WholeRun:
    """One real run of the timing gate on identical code, or with a plant.

    Attributes:
        factor: slowdown planted in ``planted``; 1.0: none.
        planted: the cell, or "".
        busy: seconds during which both cores were kept busy by others.
        verdicts: cell -> verdict.
        pairs: process pairs used.
        seconds: wall time.
        load: load average at the start.
    """

    factor: float
    planted: str
    busy: float
    verdicts: Mapping[str, str]
    pairs: int
    seconds: float
    load: float = 0.0

    @property
    def alarms(self) -> list[str]:
        """Cells called slower that were not slowed down; a slower method is slower in each of its cells."""
        planted = self.planted.split("/")[:2]
        return [c for c, v in self.verdicts.items() if v == "slower" and c.split("/")[:2] != planted]


@dataclass
class Study:
    """All that was recorded on one machine.

    Attributes:
        machine: what it was, in words.
        pairs, runs: in order of making.
        exact: plant -> (cells tried, cells caught) of the exact gate.
    """

    machine: str = ""
    pairs: list[Recorded] = field(default_factory=list)
    runs: list[WholeRun] = field(default_factory=list)
    exact: dict[str, tuple[int, int]] = field(default_factory=dict)


def process(turns: Sequence[Mapping[str, float]]) -> Process:
    """A process's record from its turns of one cell; other tools' rules get means over the samples those tools take."""
    means, total, calls = [], 0.0, 0
    for turn in turns:
        total, calls = total + turn["mean"] * turn["calls"], calls + int(turn["calls"])
        if total >= SAMPLE_NS:
            means.append(float(round(total / calls)))
            total, calls = 0.0, 0
    if not means:
        means.append(float(round(total / calls)))
    return Process(min(t["min"] for t in turns), median(t["median"] for t in turns), tuple(means))


def recorded(pair: Mapping[str, Turns], factor: float, load: float, start: tuple[float, float]) -> Recorded:
    """A pair's record."""
    cells = {cell: (process(b.a), process(b.b)) for cell, b in pair.items()}
    turns = {cell: tuple(round(t, TURN_DIGITS) for t in b.log_ratios()) for cell, b in pair.items()}
    return Recorded(factor, cells, turns, load, round(start[0], 2), round(start[1], 2))


def write(path: Path, study: Study) -> None:
    """Write a study; the file is small and reproducible (no time stamp in the gzip header)."""
    lines: list[dict[str, Any]] = [{"schema": SCHEMA, "machine": study.machine, "exact": study.exact}]
    names = sorted({cell for p in study.pairs for cell in p.cells} | {c for r in study.runs for c in r.verdicts})
    number = {cell: i for i, cell in enumerate(names)}
    lines.append({"cells": names})
    for p in study.pairs:
        table = {
            number[cell]: [[int(s.least), int(s.middle), [int(m) for m in s.means]] for s in sides]
            for cell, sides in p.cells.items()
        }
        turns = {number[cell]: [round(t * 10**TURN_DIGITS) for t in p.turns[cell]] for cell in p.turns}
        lines.append(
            {"pair": table, "turns": turns, "factor": p.factor, "load": p.load, "start": [p.imports, p.preparation]}
        )
    for r in study.runs:
        shown = {**asdict(r), "verdicts": {number[c]: v for c, v in r.verdicts.items()}}
        lines.append({"run": shown})
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def read(path: Path) -> Study:
    """Read a study.

    Raises:
        ValueError: the file is none, or of another schema.
    """
    try:
        lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
        head, names = lines[0], lines[1]["cells"]
        if head["schema"] != SCHEMA:
            raise ValueError(f"schema {head['schema']!r}, this version reads {SCHEMA}")
        study = Study(head["machine"], exact={k: (int(n), int(c)) for k, (n, c) in head["exact"].items()})
        for line in lines[2:]:
            if "pair" in line:
                study.pairs.append(_pair(line, names))
            else:
                run = line["run"]
                run["verdicts"] = {names[int(i)]: v for i, v in run["verdicts"].items()}
                study.runs.append(WholeRun(**run))
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: no recorded study ({error}); record one: study record") from error
    return study


def _pair(line: Mapping[str, Any], names: Sequence[str]) -> Recorded:
    cells = {
        names[int(i)]: (
            Process(float(a[0]), float(a[1]), tuple(map(float, a[2]))),
            Process(float(b[0]), float(b[1]), tuple(map(float, b[2]))),
        )
        for i, (a, b) in line["pair"].items()
    }
    turns = {names[int(i)]: tuple(t / 10**TURN_DIGITS for t in own) for i, own in line["turns"].items()}
    return Recorded(float(line["factor"]), cells, turns, float(line["load"]), *map(float, line["start"]))


def merge(studies: Iterable[Study]) -> Study:
    """Several recordings of one machine as one."""
    together = Study()
    for study in studies:
        together.machine = together.machine or study.machine
        together.pairs += study.pairs
        together.runs += study.runs
        together.exact.update(study.exact)
    return together
