"""Which runs there are, and all of them as one frame."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from hograd_bench import facts, metrics
from hograd_bench.schema import Row
from hograd_bench.store._common import ROWS, ReadWarning, StoreError, explained
from hograd_bench.store._copies import read_copy, write_copy
from hograd_bench.store._frames import frame_of, together
from hograd_bench.store._reading import is_run, read_environment, read_lines
from hograd_bench.store._texts import of_one_text, warnings_of


@dataclass
class Results:
    """What :func:`load` found.

    Attributes:
        rows: one row a cell and run; columns in docs/architecture.md, "The row".
        environments: (machine, run) -> its environment, {} where it could not be read.
        warnings: what was skipped or left out, and why.
        outdated: (machine, run) -> number of rows left out, of problems whose file has changed since.
    """

    rows: pd.DataFrame
    environments: dict[tuple[str, str], dict[str, Any]]
    warnings: list[ReadWarning] = field(default_factory=list)
    outdated: dict[tuple[str, str], int] = field(default_factory=dict)

    def environment(self, machine: str, run: str) -> dict[str, Any]:
        """The environment of a run, {} where unknown."""
        return self.environments.get((machine, run), {})


def run_folders(results: str | Path) -> list[Path]:
    """Folders of the runs under a results root, a machine's folder or a run's own, sorted.

    Runs lie at most two levels deep, so those of results/reference/ are found there and not under results/.

    Raises:
        StoreError: no such folder, or it cannot be listed.
    """
    root = Path(results)
    if not root.is_dir():
        raise StoreError(f"{root}: no such results folder; make one with `hograd run`, or point --results to one")
    found, level = [], [root]
    for depth in range(3):
        found += [folder for folder in level if is_run(folder)]
        if depth == 2:
            break
        with explained(root, "list"):
            level = sorted(
                Path(entry.path)
                for folder in level
                if folder not in found
                for entry in os.scandir(folder)
                if not entry.name.startswith(".") and _is_folder(entry)
            )
    # A link to a folder that is there itself brings nothing.
    once = {folder.resolve(): folder for folder in sorted(found, key=Path.is_symlink, reverse=True)}
    return sorted(once.values())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def find_run(results: str | Path, name: str) -> Path:
    """The folder of a run, by path, id, the beginning of its id, or "latest".

    Raises:
        StoreError: none or several; the message lists the candidates.
    """
    if name != "latest" and is_run(Path(name)):
        return Path(name)
    folders = sorted(run_folders(results), key=lambda folder: (folder.name, folder))
    if name == "latest" and folders:
        return max(folders, key=lambda folder: (_created(folder), folder.name))
    matching = [f for f in folders if f.name == name] or [f for f in folders if name and f.name.startswith(name)]
    if len(matching) != 1:
        shown = ", ".join(f.name for f in (matching or folders)[-10:]) or "none"
        what = "several runs match" if matching else "no such run"
        raise StoreError(f"run: got {name!r}, {what} in {results}; there: {shown}")
    return matching[0]


def load(
    results: str | Path,
    *,
    machines: Collection[str] | None = None,
    runs: Collection[str] | None = None,
    details: bool = True,
    strict: bool = False,
) -> Results:
    """Read runs into one frame.

    Args:
        results: a results root, a machine's folder or a run's own.
        machines: keep these only; None: all.
        runs: keep these only; None: all.
        details: whether to have the ``details`` column. Its mappings are read from the file when first looked into.
        strict: raise at the first damaged line or file instead of skipping it, and check the details of every row.

    Returns:
        Rows, environments and what was skipped. Of several rows of a cell in one run, the last.

    Raises:
        StoreError: no such folder; with ``strict``, anything damaged, with file and line.
    """
    chosen = [
        folder
        for folder, machine, run in ((f, *_identity(f)) for f in run_folders(results))
        if (machines is None or machine in machines) and (runs is None or run in runs)
    ]
    environments: dict[tuple[str, str], dict[str, Any]] = {}
    warnings: list[ReadWarning] = []
    read: list[pd.DataFrame] = []
    for folder in chosen:
        machine, run = _identity(folder)
        environment, *trouble = read_environment(folder)
        environments[machine, run] = environment
        metrics.carry(environment)
        facts.carry(environment)
        rows, skipped = _read(folder / ROWS, run, strict=strict)
        found = [warning for warning in (*trouble, *skipped) if warning is not None]
        if strict and found:
            raise StoreError(str(found[0]))
        warnings += found
        read.append(rows.assign(machine=machine))
    rows, lost = of_one_text(together(read), environments)
    outdated: dict[tuple[str, str], int] = {}
    for (machine, run, _), count in lost.items():
        outdated[machine, run] = outdated.get((machine, run), 0) + count
    return Results(
        rows if details else rows.drop(columns="details"), environments, warnings + warnings_of(lost), outdated
    )


def _read(rows: Path, run: str, *, strict: bool) -> tuple[pd.DataFrame, list[ReadWarning]]:
    """The rows of a run, from their copy where there is one, and what was skipped; strictly up to that."""
    copy = None if strict else read_copy(rows, run)
    if copy is not None:
        return copy, []
    taken: list[tuple[int, Row]] = []
    skipped: list[ReadWarning] = []
    digest, size = hashlib.sha256(), 0

    def seen(raw: bytes) -> None:
        nonlocal size
        digest.update(raw)
        size += len(raw)

    for line, row, warning in read_lines(rows, complete=strict, seen=seen):
        if row is None:
            skipped.append(warning)
        elif row["run"] != run:
            what = f"run: got {row['run']!r}, but the folder is {run!r}; a foreign row"
            skipped.append(ReadWarning(rows, line, what))
        else:
            taken.append((line, row))
        if strict and skipped:
            break
    frame = frame_of(taken)
    if taken and not skipped and not strict:
        write_copy(rows, frame, run, size, digest.hexdigest())
    return frame, skipped


def _identity(folder: Path) -> tuple[str, str]:
    """Machine and run of a folder."""
    resolved = folder.resolve()
    return resolved.parent.name, resolved.name


def environment_of(path: str | Path) -> dict[str, Any]:
    """The environment of the run in a folder, without opening the run for writing.

    Raises:
        StoreError: there is none, or it is damaged; the message names the file.
    """
    found, problem = read_environment(Path(path))
    if problem is not None:
        raise StoreError(str(problem))
    return found


def read_rows(path: str | Path) -> list[Row]:
    """The rows of one run with their details, as JSON-ready objects; of several rows of a cell, the last.

    Raises:
        StoreError: the file cannot be read or a line is damaged; the message names it.
    """
    found: dict[str, Row] = {}
    for _, row, problem in read_lines(Path(path) / ROWS, complete=True):
        if row is None:
            raise StoreError(str(problem))
        found[row["cell"]] = row
    return list(found.values())


def _created(folder: Path) -> str:
    return str(read_environment(folder)[0].get("recorded", ""))
