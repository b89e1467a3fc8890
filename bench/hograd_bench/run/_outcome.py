"""What a run did, and why one cannot be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from hograd_bench import store
from hograd_bench.driver import Event
from hograd_bench.run._table import table
from hograd_bench.schema import visible


class RunError(RuntimeError):
    """The run cannot start or go on; the message says what to do."""


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        path: folder of the run.
        statuses: number of rows by status, of this call.
        reasons: ``status: reason`` of what did not come out ok in this call -> number of rows.
        seconds: wall time of this call.
        interrupted: whether Ctrl-C ended it.
    """

    path: Path
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    interrupted: bool = False

    def count(self, event: Event) -> None:
        """Take one settled cell into account."""
        self.statuses[event.status] += 1
        if event.status not in ("ok", "skipped"):
            self.reasons[f"{event.status}: {event.reason}"] += 1

    @property
    def finished(self) -> int:
        """Rows written by this call."""
        return sum(self.statuses.values())

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows of the run, those of earlier calls among them, without their details."""
        return store.load(self.path, details=False).rows

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the run, as JSON-ready objects.

        Raises:
            StoreError: a line is damaged.
        """
        return store.read_rows(self.path)

    def print(self, console: Console) -> None:
        """What was measured, how many cells ended how, and where the rows are."""
        made = table(self.frame)
        if made is not None:
            console.print(made)
        said = ", ".join(f"{count} {status}" for status, count in self.statuses.most_common())
        lines = [
            f"{self.finished} cell{'s' * (self.finished != 1)} in {self.seconds:.0f} s: "
            f"{said or ('none was finished' if self.interrupted else 'nothing was left to do')}",
            *(f"  {count} × {visible(reason)}" for reason, count in self.reasons.most_common(8)),
            f"rows: {self.path / 'rows.jsonl'}",
        ]
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)
