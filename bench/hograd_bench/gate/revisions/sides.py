"""Sides: a revision of the repository, another interpreter, another torch release."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hograd_bench.engine import Host
from hograd_bench.gate.outcome import NotComparableError
from hograd_bench.gate.revisions.environments import environment, same_requirements
from hograd_bench.gate.revisions.repository import commit, git
from hograd_bench.gate.revisions.trees import tree
from hograd_bench.scratch import scratch

SUITE = Path("bench/hograd_bench/metrics/_contract.py")


@dataclass(frozen=True)
class Side:
    """What one side runs.

    Attributes:
        name: for people: a revision, a method, an interpreter.
        python: interpreter.
        roots: folders put first on the module path: a tree and its ``bench``.
        plugins: modules or files that register operators, methods or problems, imported by the worker.
        own_suite: whether hograd_core must come from ``roots`` (False: from the interpreter's environment).
        commit: full hash, where the side is a revision.
        variables: environment variables of its own processes.
    """

    name: str
    python: str
    roots: tuple[str, ...]
    plugins: tuple[str, ...] = ()
    own_suite: bool = True
    commit: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict, hash=False)

    def host(self, **variables: str) -> Host:
        """The side as the engine knows it, with further variables."""
        return Host(self.python, self.roots, self.plugins, variables={**self.variables, **variables})

    def check_plugins(self) -> None:
        """Refuse what the side has no file of.

        Raises:
            NotComparableError: a plugin's file does not exist there.
        """
        for name in self.plugins:
            if name.endswith(".py") and not any((Path(root) / name).is_file() for root in (*self.roots, ".")):
                raise NotComparableError(f"{self.name} cannot be measured: plugin {name} does not exist on this side")

    def check_suite(self, found: str) -> None:
        """Refuse a ``hograd_core`` that was found elsewhere than in the side's tree.

        Raises:
            NotComparableError: it is another tree's, or an installed one.
        """
        inside = (os.path.realpath(root) + os.sep for root in self.roots)
        if self.own_suite and not found.startswith(tuple(inside)):
            raise NotComparableError(
                f"{self.name} cannot be measured (no suite): hograd_core was found at {found}, outside of "
                f"{', '.join(self.roots)}"
            )


@dataclass(frozen=True)
class Twin:
    """What is compared: cell ``a`` on side A with cell ``b`` on side B, shown under ``name``."""

    name: str
    a: str
    b: str


def revision(
    repo: Path,
    name: str,
    cache: Path,
    plugins: Sequence[str] = (),
    python: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Side:
    """The side of a revision: its tree, and the current interpreter unless its requirements differ.

    Args:
        repo: the repository.
        name: branch, tag, hash, ``HEAD~1``, ...
        cache: see :func:`cache_folder`.
        plugins: modules or files that register operators, methods or problems.
        python: interpreter to use whatever the requirements say.
        log: gets what takes minutes, before it begins.

    Returns:
        The side.

    Raises:
        UsageError: no such revision.
        NotComparableError: the revision lacks the suite, or its environment cannot be built.
    """
    sha = commit(repo, name)
    folder = tree(repo, sha, cache)
    own, shown = owns_suite(repo), f"{name} ({sha[:10]})"
    if own and not owns_suite(folder):
        raise NotComparableError(_no_suite(repo, name, sha))
    if python is None:
        what = f"{shown}, whose constraints.txt is another"
        same = same_requirements(repo, folder)
        python = sys.executable if same else environment(folder, cache, log=log, name=what)
    return Side(shown, python, roots(folder), tuple(plugins), own, sha)


def working_tree(repo: Path, plugins: Sequence[str] = (), python: str | None = None, name: str = "") -> Side:
    """The side of the files as they are now."""
    return Side(name or "working tree", python or sys.executable, roots(repo), tuple(plugins), owns_suite(repo))


def owns_suite(folder: Path) -> bool:
    """Whether a folder is a tree of hograd itself, with the suite in it."""
    return (folder / SUITE).is_file() and (folder / "hograd_core").is_dir()


def roots(folder: Path) -> tuple[str, ...]:
    """What of a tree goes on the module path: the tree, and ``bench`` or ``src`` where it has them."""
    return tuple(str(p) for p in (folder, folder / "bench", folder / "src") if p.is_dir())


def _no_suite(repo: Path, name: str, sha: str) -> str:
    first = git(repo, "log", "--reverse", "--format=%h", "--diff-filter=A", "--", str(SUITE)).splitlines()
    where = f" The first revision that has it is {first[0]}: --base {first[0]}." if first else ""
    return (
        f"--base: {name} ({sha[:10]}) has no hograd_bench, so nothing there can be measured.{where} "
        "Without a base, `hograd gate` compares exact metrics with the committed baseline."
    )


def end_cleanly() -> None:
    """Let SIGTERM and SIGHUP unwind the stack, so that workers are ended and scratch folders removed."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)


@contextmanager
def mirrored(a: Side, b: Side) -> Iterator[tuple[Side, Side]]:
    """The same sides reached by links of equal length.

    The length of a path lands on the stack and in strings of every module; identical code must see identical
    lengths, or the two sides of an A/A comparison would not be exchangeable.
    """
    with scratch() as folder:
        sides = []
        for letter, side in (("a", a), ("b", b)):
            linked = []
            base = folder / letter
            base.symlink_to(side.roots[0], target_is_directory=True)
            for root in side.roots:
                inside = os.path.relpath(root, side.roots[0])
                linked.append(str(base) if inside == "." else str(base / inside))
            sides.append(replace(side, roots=tuple(linked)))
        yield sides[0], sides[1]
