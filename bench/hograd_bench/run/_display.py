"""What a person sees who waits for a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hograd_bench.driver import Event
from hograd_bench.plan import Planned

_TIMED, _UNTIMED = 4.0, 1.0  # what a timed cell takes in untimed ones, for the ETA
_SAY_EVERY = 10.0  # seconds between signs of life where no progress bar can be drawn


@contextmanager
def signs_of_life(console: Console, say: Callable[[], str]) -> Iterator[None]:
    """While the block works, print a line every ten seconds, so that nobody takes it for dead."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_SAY_EVERY):
            console.print(say(), markup=False, soft_wrap=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Display:
    """A progress bar with ETA on a terminal; a line every few seconds elsewhere."""

    def __init__(self, plans: Sequence[Planned], console: Console) -> None:
        self._console = console
        self._weights = {p.cell.id: _TIMED if "time" in p.families and not p.skip else _UNTIMED for p in plans}
        self._cells = len(plans)
        self._settled = 0
        self._work = 0.0
        self._start = time.monotonic()
        self._at = ""
        self._progress = Progress(
            TextColumn("{task.percentage:>3.0f}%"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[cell]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("cells", total=sum(self._weights.values()) or 1.0, cell="")
        self._shown = self._progress if console.is_terminal else signs_of_life(console, self._say)

    def __enter__(self) -> Display:
        self._console.print(
            f"{self._cells} cell{'s' * (self._cells != 1)} to measure; Ctrl-C keeps every finished row", markup=False
        )
        self._shown.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._shown.__exit__(*error)

    def started(self, planned: Planned) -> None:
        """A cell is being measured."""
        self._at = planned.cell.id
        self._progress.update(self._task, cell=self._at[:70])

    def settled(self, event: Event) -> None:
        """One cell has its row."""
        self._settled += 1
        weight = self._weights.get(event.planned.cell.id, _UNTIMED)
        self._work += weight
        self._progress.update(self._task, advance=weight)

    def _say(self) -> str:
        gone = time.monotonic() - self._start
        left = gone * (sum(self._weights.values()) / self._work - 1) if self._work else None
        eta = "" if left is None else f", about {left:.0f} s to go"
        return f"{self._settled}/{self._cells} cells, {gone:.0f} s gone{eta}; {self._at or 'a process starts'}"


class Labelled(Console):
    """Lines, no bar, that say of which machine they are."""

    def __init__(self, machine: str) -> None:
        super().__init__(stderr=True, highlight=False, force_terminal=False, soft_wrap=True)
        self._machine = machine

    def print(self, *what: Any, **how: Any) -> None:
        super().print(f"{self._machine}:", *what, **how)
