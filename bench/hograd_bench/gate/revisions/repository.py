"""The repository: where it is, and what its revisions are called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hograd_bench.gate.outcome import UsageError
from hograd_bench.system_info import git_environment


def git(repository: Path, *arguments: str, index: Path | None = None) -> str:
    """What a git command prints, with an index of its own where one is given.

    Raises:
        UsageError: git failed; the message is its own.
    """
    env = {**git_environment(), "GIT_OPTIONAL_LOCKS": "0"}
    if index is not None:
        env["GIT_INDEX_FILE"] = str(index)
    try:
        done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, env=env, check=False)
    except FileNotFoundError:
        raise UsageError("git: not found; a base revision needs git on PATH") from None
    if done.returncode:
        said = os.fsdecode(done.stderr).strip()
        raise UsageError(said.splitlines()[-1] if said else "git failed")
    return os.fsdecode(done.stdout).strip()  # paths, in whatever encoding


def repository(start: Path) -> Path:
    """Top folder of the git repository around ``start``.

    Raises:
        UsageError: there is none.
    """
    try:
        return Path(git(start, "rev-parse", "--show-toplevel"))
    except UsageError as error:
        raise UsageError(f"repository: {start} is in no git repository ({error}); run the gate inside one") from None


def commit(repo: Path, revision: str, option: str = "--base") -> str:
    """Full hash of a revision, that an option named.

    Raises:
        UsageError: the repository has no such revision; the message says how to get it.
    """
    try:
        return git(repo, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except UsageError:
        raise UsageError(
            f"{option}: {revision!r} is no revision of {repo.name}; `git fetch origin` gets remote branches, and a "
            "shallow clone lacks history (actions/checkout: fetch-depth: 0)"
        ) from None
