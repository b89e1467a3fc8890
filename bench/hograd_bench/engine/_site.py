"""On a node of a Ray cluster: a session of the engine, a step at a time. Ray itself is not imported here."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hograd_bench import environment
from hograd_bench.engine._interface import FATAL, EngineError, Host, Limits, Task
from hograd_bench.engine._local import Session, call

_STEP = 2.0  # seconds of work whose rows come back together, and are measured again when the driver is lost
PROBE = 300.0
"""Seconds for a host's environment and ceilings, and for its CPUs to be free."""


class Actor:
    """On a node: a session, a step at a time. Every event is in a journal before it is in an answer."""

    def __init__(
        self, token: str, slots: int, limits: Limits, variables: dict[str, str | None], files: dict[str, str]
    ) -> None:
        self.folder, self.variables = _folder(token), variables
        self.folder.mkdir()
        self.files = {path: self._here(path, text, number) for number, (path, text) in enumerate(files.items())}
        self.session = Session(slots, limits, {}, self.folder, lasting=True, by_threads=True)
        self.numbers: dict[Task | None, int] = {}

    def step(self, more: dict[int, Task], unwanted: list[int]) -> Any:
        """Go on for some seconds, or until a row that others may depend on, or until more tasks could be at work.

        Returns:
            Numbers of the tasks begun, and (number, row) of those settled; or why no process can start.
        """
        for number in unwanted:
            self.numbers.pop(self.session.pending.pop(number, None), None)  # it may have begun
        for number, task in more.items():
            self.session.pending[number] = there = replace(task, host=self._localised(task.host))
            self.numbers[there] = number
        begun, rows = [], []
        self.session.until = time.monotonic() + _STEP
        try:
            with open(self.folder / "journal", "w", buffering=1, encoding="utf-8") as journal:
                for event in self.session.events():
                    number = self.numbers[event.task]
                    journal.write(json.dumps([number, event.row]) + "\n")
                    if event.row is None:
                        begun.append(number)
                        continue
                    rows.append((number, event.row))
                    del self.numbers[event.task]
                    if event.row["status"] in FATAL or not self.session.pending:
                        self.session.until = 0.0
        except EngineError as error:
            return str(error)
        return begun, rows

    def close(self) -> None:
        """End its processes; its files go."""
        self.session.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _localised(self, host: Host) -> Host:
        files = tuple(self.files[path] for path in host.problem_files)
        return replace(host, python=sys.executable, problem_files=files, variables={**self.variables, **host.variables})

    def _here(self, path: str, text: str, number: int) -> str:
        """The same file, beside what it may import where folders are shared; else a copy."""
        with contextlib.suppress(OSError, ValueError):
            if Path(path).read_text("utf-8", "surrogateescape") == text:
                return path
        copy = self.folder / str(number) / Path(path).name
        copy.parent.mkdir()
        copy.write_text(text, "utf-8", "surrogateescape")
        return str(copy)


def _folder(token: str) -> Path:
    return Path(tempfile.gettempdir()) / f"hograd-{token}"


def salvage(token: str) -> dict[int, Any]:
    """On a node whose actor is gone: number -> row, or None where it was begun; its files go."""
    left: dict[int, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # it died before the first, or in a line
        for line in (_folder(token) / "journal").read_text(encoding="utf-8").splitlines():
            number, row = json.loads(line)
            left[number] = row
    shutil.rmtree(_folder(token), ignore_errors=True)
    return left


def probe(packages: list[str]) -> dict[str, Any]:
    """On a host, in a process as cells have it: its environment, with its ceilings."""
    from hograd_bench import ceilings

    return {**environment.record(packages), "ceilings": ceilings.measure()}


def ask(packages: list[str], variables: Mapping[str, str | None]) -> dict[str, Any]:
    host = Host(python=sys.executable, variables=variables)
    found: dict[str, Any] = call(host, f"{__name__}:probe", packages, seconds=PROBE)
    found["variables"].pop("CUDA_VISIBLE_DEVICES", None)  # which of its GPUs Ray gave to this process
    return found
