"""Revisions written out of git, in a cache under the repository's git folder.

No worktree is registered, so a gate that is killed leaves nothing behind in the repository, and the next run of the
same base finds its tree ready. What is half-written carries the writer's process id and is cleared by the next start.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hograd_bench.gate.revisions.repository import git
from hograd_bench.scratch import PREFIX, clear_stale, name

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

KEPT_TREES = 4
IN_USE_SECONDS = 3600.0


def cache_folder(repo: Path) -> Path:
    """Where trees and environments are kept: HOGRAD_GATE_CACHE, or a folder inside the repository's git folder."""
    named = os.environ.get("HOGRAD_GATE_CACHE")
    if named:
        return Path(named)
    common = Path(git(repo, "rev-parse", "--git-common-dir"))
    return (common if common.is_absolute() else repo / common) / "hograd-gate"


@contextmanager
def locked(path: Path, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """One gate at a time; ``waits`` is called where another has to be waited for.

    The lock goes with the process that holds it, however that ends. Where there are no such locks it is done without.
    """
    with path.open("w", encoding="utf-8") as file:
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
    with locked(cache / "trees.lock"):
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
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=name()))
    try:
        if target.is_dir():
            os.replace(target, scratch / "damaged")
        index = scratch / "index"
        git(repo, "read-tree", sha, index=index)
        git(repo, "checkout-index", "--all", "--quiet", f"--prefix={scratch / 'tree'}{os.sep}", index=index)
        (scratch / "tree").mkdir(exist_ok=True)
        written.parent.mkdir(exist_ok=True)
        written.write_text(json.dumps(_stamps(scratch / "tree")), encoding="utf-8")
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
        before = json.loads(written.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    now = _stamps(folder)
    return isinstance(before, dict) and all(now.get(path) == stamp for path, stamp in before.items())


def _forget_old(trees: Path) -> None:
    known = sorted((p for p in trees.iterdir() if not p.name.startswith(PREFIX)), key=_modified, reverse=True)
    for old in known[KEPT_TREES:]:
        if time.time() - _modified(old) > IN_USE_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
            (trees.parent / "written" / f"{old.name}.json").unlink(missing_ok=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
