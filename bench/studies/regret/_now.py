"""Choices made now: probes of the functions themselves, and advice on functions as their users write them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from hograd_bench.advise import advise_by_name
from hograd_bench.cells import Cell
from hograd_bench.metrics import Subject
from hograd_bench.targets import Request, declared
from hograd_bench.targets._load import load
from hograd_bench.torch_state import threads

import hograd_core

_FROM_F = 64
"""Elements of x where a file has a function of any x and no factory."""


def probed(place: Mapping[str, Any], problem: str | None = None) -> str | None:
    """The method that a call with ``probe=True`` computes by.

    Args:
        place: of a point: operator, order and what its problem is built of.
        problem: name of the problem, where it is declared here under another one.

    Returns:
        None where PyTorch computes the operator by no method here.
    """
    record = hograd_core.operators()[place["operator"]]
    order = int(place["order"])
    cell = Cell(
        record.name, record.default, problem or place["problem"], int(place["n"]), order, int(place["depth"]),
        int(place["batch"]), place["dtype"], place["device"], int(place["threads"]),
    )  # fmt: skip
    with threads(cell.threads):
        arguments, how = Subject(cell).instance.call(record)
        ordered = {"order": order} if record.takes_order else {}
        choice = record.explain(*arguments, **how, **ordered, probe=True)
    return choice.method if choice.source == "probe" else None


def advised(file: Path, runs: int, seconds: float) -> Iterator[tuple[pd.DataFrame, functools.partial[str | None]]]:
    """Rows of every method on the function of a file, and what probes it; nothing where there is no advice."""
    whole = "def make(" in file.read_text(encoding="utf-8")
    request = Request(f"{file}:{'make' if whole else 'f'}", None if whole else (_FROM_F,))
    given = [advise_by_name(request, seconds=seconds, preparations=()) for _ in range(runs)]
    frames = [
        advice.frame[advice.frame["n"] == advice.described["n"]].assign(machine="here", run=str(run))
        for run, advice in enumerate(given)
        if not advice.lost
    ]
    if frames:
        with declared(load(request)) as name:
            yield (
                pd.concat(frames, ignore_index=True).assign(problem=file.stem),
                functools.partial(probed, problem=name),
            )
