"""Sides: a revision of the repository, another interpreter, another torch release.

A revision is written out of git into a cache under the repository's git folder: no worktree is registered, so a
gate that is killed leaves nothing behind in the repository, and the next run of the same base finds its tree ready.
What is half-written carries the writer's process id and is cleared by the next start.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hograd_bench.gate.twins import Side

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

SUITE = Path("bench/hograd_bench/metrics/_contract.py")
KEPT_TREES = 4
IN_USE_SECONDS = 3600.0
_SCRATCH = "hograd-gate-"


class NotComparableError(RuntimeError):
    """A side cannot be had; the message says what to do instead (exit code 4)."""


class UsageError(ValueError):
    """What was asked for does not exist (exit code 2)."""


def _git(repository: Path, *arguments: str, index: Path | None = None) -> str:
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    if index is not None:
        env["GIT_INDEX_FILE"] = str(index)
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), *arguments], capture_output=True, text=True, env=env, check=False
        )
    except FileNotFoundError:
        raise UsageError("git: not found; a base revision needs git on PATH") from None
    if done.returncode:
        raise UsageError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "git failed")
    return done.stdout.strip()


def repository(start: Path) -> Path:
    """Top folder of the git repository around ``start``.

    Raises:
        UsageError: there is none.
    """
    try:
        return Path(_git(start, "rev-parse", "--show-toplevel"))
    except UsageError as error:
        raise UsageError(f"repository: {start} is in no git repository ({error}); run the gate inside one") from None


def commit(repo: Path, revision: str, option: str = "--base") -> str:
    """Full hash of a revision, that an option named.

    Raises:
        UsageError: the repository has no such revision; the message says how to get it.
    """
    try:
        return _git(repo, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except UsageError:
        raise UsageError(
            f"{option}: {revision!r} is no revision of {repo.name}; `git fetch origin` gets remote branches, and a "
            "shallow clone lacks history (actions/checkout: fetch-depth: 0)"
        ) from None


def cache_folder(repo: Path) -> Path:
    """Where trees and environments are kept: HOGRAD_GATE_CACHE, or a folder inside the repository's git folder."""
    named = os.environ.get("HOGRAD_GATE_CACHE")
    if named:
        return Path(named)
    common = Path(_git(repo, "rev-parse", "--git-common-dir"))
    return (common if common.is_absolute() else repo / common) / "hograd-gate"


@contextmanager
def _locked(path: Path, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """One gate at a time; ``waits`` is called where another has to be waited for.

    The lock goes with the process that holds it, however that ends. Where there are no such locks it is done without.
    """
    with path.open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waits()
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # a file system without locks
                pass
        yield


def tree(repo: Path, sha: str, cache: Path) -> Path:
    """A folder with the files of a commit, from the cache or written now; a cached one that was damaged, anew.

    Args:
        repo: the repository.
        sha: full hash.
        cache: see :func:`cache_folder`.

    Returns:
        The folder; its files must not be changed.
    """
    trees = cache / "trees"
    trees.mkdir(parents=True, exist_ok=True)
    target = trees / sha
    with _locked(cache / "trees.lock"):
        clear_stale(trees)
        _write(repo, sha, target)
        os.utime(target)
        _forget_old(trees)
    return target


def _write(repo: Path, sha: str, target: Path) -> None:
    """Make ``target`` hold the files of a commit; what stands there stays unless some of them are gone or changed."""
    written = target.parent.parent / "written" / f"{sha}.json"
    if target.is_dir() and _whole(target, written):
        return
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{_SCRATCH}{os.getpid()}-"))
    try:
        if target.is_dir():
            os.replace(target, scratch / "damaged")
        index = scratch / "index"
        _git(repo, "read-tree", sha, index=index)
        _git(repo, "checkout-index", "--all", "--quiet", f"--prefix={scratch / 'tree'}{os.sep}", index=index)
        (scratch / "tree").mkdir(exist_ok=True)
        written.parent.mkdir(exist_ok=True)
        written.write_text(json.dumps(_stamps(scratch / "tree")))
        try:
            os.replace(scratch / "tree", target)
        except OSError:
            if not target.is_dir():  # not another gate that was faster, where there are no locks
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _stamps(folder: Path) -> dict[str, list[int]]:
    """Size and time of change of every file: what git wrote, whatever its attributes make of line ends."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() or path.is_symlink():
            seen = path.lstat()
            found[path.relative_to(folder).as_posix()] = [seen.st_size, seen.st_mtime_ns]
    return found


def _whole(folder: Path, written: Path) -> bool:
    """Whether a folder holds every file as it was written; more files are no matter."""
    try:
        before = json.loads(written.read_text())
    except (OSError, ValueError):
        return False
    now = _stamps(folder)
    return isinstance(before, dict) and all(now.get(path) == stamp for path, stamp in before.items())


def _forget_old(trees: Path) -> None:
    known = sorted((p for p in trees.iterdir() if not p.name.startswith(_SCRATCH)), key=_modified, reverse=True)
    for old in known[KEPT_TREES:]:
        if time.time() - _modified(old) > IN_USE_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
            (trees.parent / "written" / f"{old.name}.json").unlink(missing_ok=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def clear_stale(folder: Path) -> list[Path]:
    """Remove scratch folders in ``folder`` whose writer is dead; returns them."""
    gone = []
    for path in folder.glob(f"{_SCRATCH}*"):
        pid = path.name.removeprefix(_SCRATCH).split("-")[0]
        if pid.isdecimal() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
            gone.append(path)
    return gone


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder that carries our process id; those of dead gates are cleared first."""
    clear_stale(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"{_SCRATCH}{os.getpid()}-") as name:
        yield Path(name)


def revision(
    repo: Path,
    name: str,
    cache: Path,
    plugins: Sequence[str] = (),
    python: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Side:
    """The side of a revision: its tree, and the current interpreter unless its requirements differ.

    Args:
        repo: the repository.
        name: branch, tag, hash, ``HEAD~1``, ...
        cache: see :func:`cache_folder`.
        plugins: modules or files that register operators, methods or problems.
        python: interpreter to use whatever the requirements say.
        tell: hears what takes minutes, before it begins.

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
        same = _same_requirements(repo, folder)
        python = sys.executable if same else environment(folder, cache, tell=tell, name=what)
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
    first = _git(repo, "log", "--reverse", "--format=%h", "--diff-filter=A", "--", str(SUITE)).splitlines()
    where = f" The first revision that has it is {first[0]}: --base {first[0]}." if first else ""
    return (
        f"--base: {name} ({sha[:10]}) has no hograd_bench, so nothing there can be measured.{where} "
        "Without a base, `hograd gate` compares exact metrics with the committed baseline."
    )


def _same_requirements(a: Path, b: Path) -> bool:
    return all(_bytes(a / name) == _bytes(b / name) for name in ("constraints.txt",))


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def environment(
    folder: Path,
    cache: Path,
    torch: str | None = None,
    install: Callable[[Path, list[str]], None] | None = None,
    tell: Callable[[str], None] = lambda line: None,
    name: str = "",
) -> str:
    """Interpreter of a cached virtual environment for a tree's requirements.

    Args:
        folder: the tree; its ``constraints.txt`` is honoured where there is one.
        cache: see :func:`cache_folder`.
        torch: this release of torch instead of the constrained one.
        install: runs pip with these arguments in an environment (for tests).
        tell: hears what takes minutes, before it begins.
        name: what the environment is for, in words.

    Returns:
        Path of the interpreter. Minutes the first time, nothing afterwards.

    Raises:
        NotComparableError: pip failed; the message holds its last lines.
    """
    wanted = _bytes(folder / "constraints.txt") + _bytes(folder / "pyproject.toml")
    digest = hashlib.sha256(wanted + f"{torch}|{sys.version}".encode()).hexdigest()[:16]
    envs = cache / "envs"
    envs.mkdir(parents=True, exist_ok=True)
    target = envs / digest
    interpreter = target / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    # An environment cannot be moved once made, so a mark says that it is complete.
    mark = target / "complete"
    if not mark.is_file():
        # Two gates at once would each clear away what the other has installed: the second waits and finds the mark.
        with _locked(envs / f"{digest}.lock", lambda: tell("another gate builds this environment: waiting for it")):
            if not mark.is_file():
                tell(f"building an environment for {name or folder}: minutes the first time, then cached in {cache}")
                _build(target, interpreter, folder, torch, install or _pip)
                mark.touch()
    return str(interpreter)


def _build(
    target: Path, interpreter: Path, folder: Path, torch: str | None, install: Callable[[Path, list[str]], None]
) -> None:
    shutil.rmtree(target, ignore_errors=True)
    lines = (folder / "constraints.txt").read_text().splitlines() if (folder / "constraints.txt").is_file() else []
    if torch is not None:  # a release brings its own companions
        lines = [x for x in lines if not x.lower().startswith(("torch=", "triton", "nvidia-", "sympy="))]
        lines.append(f"torch=={torch}")
    constraints = target.with_name(f"{target.name}.txt")
    constraints.write_text("\n".join(lines) + "\n")
    subprocess.run([sys.executable, "-m", "venv", str(target)], check=True, capture_output=True)
    install(interpreter, ["-c", str(constraints), f"{folder}[bench]"])


def _pip(python: Path, arguments: list[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise NotComparableError(f"the environment of this side cannot be built; pip says:\n{tail}")


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
