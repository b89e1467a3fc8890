"""Environments of sides that need another than this one, built once and cached."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hograd_bench.gate.outcome import NotComparableError
from hograd_bench.gate.revisions.trees import locked


def same_requirements(a: Path, b: Path) -> bool:
    """Whether two trees ask for the same environment."""
    return all(_bytes(a / name) == _bytes(b / name) for name in ("constraints.txt",))


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def environment(
    folder: Path,
    cache: Path,
    torch: str | None = None,
    install: Callable[[Path, list[str]], None] | None = None,
    log: Callable[[str], None] = lambda line: None,
    name: str = "",
) -> str:
    """Interpreter of a cached virtual environment for a tree's requirements.

    Args:
        folder: the tree; its ``constraints.txt`` is honoured where there is one.
        cache: see :func:`cache_folder`.
        torch: this release of torch instead of the constrained one.
        install: runs pip with these arguments in an environment (for tests).
        log: gets what takes minutes, before it begins.
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
        with locked(envs / f"{digest}.lock", lambda: log("another gate builds this environment: waiting for it")):
            if not mark.is_file():
                log(f"building an environment for {name or folder}: minutes the first time, then cached in {cache}")
                _build(target, interpreter, folder, torch, install or _pip)
                mark.touch()
    return str(interpreter)


def _build(
    target: Path, interpreter: Path, folder: Path, torch: str | None, install: Callable[[Path, list[str]], None]
) -> None:
    shutil.rmtree(target, ignore_errors=True)
    lines = _bytes(folder / "constraints.txt").decode().splitlines()
    if torch is not None:  # a release brings its own companions
        lines = [x for x in lines if not x.lower().startswith(("torch=", "triton", "nvidia-", "sympy="))]
        lines.append(f"torch=={torch}")
    constraints = target.with_name(f"{target.name}.txt")
    constraints.write_text("\n".join(lines) + "\n", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", str(target)], check=True, capture_output=True)
    install(interpreter, ["-c", str(constraints), f"{folder}[bench]"])


def _pip(python: Path, arguments: list[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise NotComparableError(f"the environment of this side cannot be built; pip says:\n{tail}")
