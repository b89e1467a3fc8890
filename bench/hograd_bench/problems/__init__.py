"""Problems: one file each, discovered by being here."""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import pkgutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hograd_bench import own_files, plugins, torch_state
from hograd_bench import patterns as patterns  # declares its operator, wherever cells are made
from hograd_bench.problems._contract import ClosedForm as ClosedForm
from hograd_bench.problems._contract import Draw as Draw
from hograd_bench.problems._contract import Instance as Instance
from hograd_bench.problems._contract import Problem as Problem
from hograd_bench.problems._contract import ProblemError as ProblemError
from hograd_bench.problems._contract import Spec as Spec
from hograd_bench.problems._contract import problem as problem
from hograd_bench.problems._contract import registered as _registered
from hograd_bench.problems._contract import withdraw


@dataclass(frozen=True)
class _Loaded:
    names: list[str]
    text: str
    """SHA-256 of it."""
    changed: list[str]
    """What it set in torch, in words."""


_FILES: dict[Path, _Loaded] = {}


@functools.cache
def _discover() -> None:
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")


def problems() -> dict[str, Problem]:
    """All problems by name: those of this folder and those loaded from files."""
    _discover()
    return _registered()


def get(name: str) -> Problem:
    """The problem of that name.

    Raises:
        ValueError: no such problem; the message lists those that exist.
    """
    known = problems()
    if name not in known:
        raise ValueError(f"problem: got {name!r}, expected one of {', '.join(sorted(known))}")
    return known[name]


def load_file(path: str | Path) -> list[str]:
    """Run a Python file that declares problems of your own; returns their names.

    Raises:
        ValueError: no such file, it cannot be run, or declares no problem; the message says where and why.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise ValueError(
            f"problem file: {path} is {'a folder' if path.is_dir() else 'not there'}, expected a Python file"
        )
    if path in _FILES:
        return _FILES[path].names
    before = set(problems())
    try:
        text = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"problem file: {path} cannot be read: {error.strerror}") from None
    here = os.getcwd()
    try:
        with torch_state.noted() as changed:
            own_files.load(path, "hograd_problem_file")
    except BaseException as error:  # of somebody else's file: named with the file
        at = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f", line {at[-1]}" if at else ""
        withdraw(set(problems()) - before)
        raise ValueError(f"problem file: {path}{where}: cannot be run: {own_files.describe(error)}") from error
    finally:
        os.chdir(here)
    added = sorted(set(problems()) - before)
    if not added:
        raise ValueError(f"problem file: {path} declares no problem; decorate a factory with @problem(...)")
    _FILES[path] = _Loaded(added, text, changed)
    return added


def of_files(paths: Sequence[str | Path]) -> list[str]:
    """Names of the problems that files declared which were loaded."""
    return [name for path in paths if (loaded := _FILES.get(Path(path).resolve())) for name in loaded.names]


def numels(cells: Sequence[tuple[str, int, int, int]], caught: type[BaseException] = BaseException) -> list[int | None]:
    """How many entries x has, by problem, n, depth and batch; None where the factory does not say.

    A factory may raise what is ``caught``: anything in a process of its own, but no Ctrl-C in the caller's.
    """
    found: list[int | None] = []
    for name, *sizes in cells:
        try:
            found.append(get(name).instance(Spec(*sizes)).x.numel())
        except caught:  # the cell's row will say
            found.append(None)
    return found


def texts() -> dict[str, str]:
    """Problems of one's own -> SHA-256 of the file that declared them: what tells two functions of one name apart.

    What such a file imports is not looked at.
    """
    return {name: loaded.text for loaded in _FILES.values() for name in loaded.names}


def set_by_files() -> list[str]:
    """What files of one's own set in torch when they were loaded, in words: it holds for all that is measured here."""
    return [what for loaded in _FILES.values() for what in loaded.changed]


plugins.load()  # last, for what they import is this module; wherever cells are made
