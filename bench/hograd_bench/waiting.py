"""Signs of life for people who wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

SAY_EVERY = 10.0
"""Seconds between two of them."""


@contextmanager
def signs_of_life(console: Console, say: Callable[[], str]) -> Iterator[None]:
    """While the block works, print a line every ten seconds, so that nobody takes it for dead."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(SAY_EVERY):
            console.print(say(), markup=False, soft_wrap=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
