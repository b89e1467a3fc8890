"""The one place that starts a child process: it dies with this one, keeps to its limits, and says how it ended.

JSON lines go in and out. What the child prints besides goes to a log, whose tail explains a death. A child that talks
on stdout must first move it away from what libraries print: ``answers = os.fdopen(os.dup(1), "w", buffering=1)`` and
``os.dup2(2, 1)``. The standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # here, for nothing is safely loaded after a fork
_PR_SET_PDEATHSIG = 1
_SILENT = "no message"


class LostError(RuntimeError):
    """A child gave no answer; ``status`` says how in one word: "timeout", "oom", "crashed", or "failed"."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Child:
    """A child process; use as a context manager. A batch child is read as it talks, another is asked and answers.

    It is a session of its own, so that Ctrl-C reaches this process alone, and is killed with all of its own children.
    On Linux the kernel kills it when the thread that started it ends; elsewhere see :func:`die_with_parent`.

    Args:
        command: program and arguments.
        environment: all of its environment variables; None: this process's.
        cwd: its folder.
        memory: limit on its private memory in bytes (RLIMIT_DATA, Linux).
        cpus: the only CPUs it may use, where the system can bind; None: any.
        pass_fds: further file descriptors it inherits.

    Attributes:
        pid: process id.
        messages: what it said and nobody took yet.

    Raises:
        LostError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
        memory: int | None = None,
        cpus: Collection[int] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        if sys.platform == "win32":
            raise LostError("failed", "cells run on POSIX systems alone: children are watched through inherited pipes")
        self.messages: deque[Any] = deque()
        self._rest = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._since = 0
        parent = os.getpid()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**(os.environ if environment is None else environment), "PYTHONUNBUFFERED": "1"},
                cwd=cwd,
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=lambda: _limit(parent, memory, cpus),
            )
        except OSError as error:
            self._log.close()
            raise LostError("failed", f"{command[0]} cannot be started: {error}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self.pid = self._process.pid

    def fileno(self) -> int:
        """What becomes readable when the child said something or ended: for ``multiprocessing.connection.wait``."""
        return self._out.fileno()

    def send(self, message: Any) -> None:
        """Send a message. That the child is gone is left to the reader to say: what it wrote before tells more."""
        with contextlib.suppress(BrokenPipeError):
            self._in.write((json.dumps(message) + "\n").encode())
            self._in.flush()

    def read(self) -> bool:
        """Take what the pipe holds into :attr:`messages`; False at its end. Blocks where there is nothing yet.

        Raises:
            LostError: what came is no JSON.
        """
        chunk = os.read(self._out.fileno(), 1 << 20)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            try:
                self.messages.append(json.loads(line))
            except ValueError:
                raise LostError("failed", f"got {line[:60].decode(errors='replace')!r}, no line of JSON") from None
        return bool(chunk)

    def receive(self, seconds: float) -> Any:
        """The next message.

        Raises:
            LostError: none within ``seconds``, the child ended, or what it said is no JSON.
        """
        end = time.monotonic() + seconds
        while not self.messages:
            if not wait([self.fileno()], max(0.0, end - time.monotonic())):
                raise LostError("timeout", f"no answer within {seconds:g} s")
            if not self.read() and not self.messages:
                raise LostError(*self.death())
        return self.messages.popleft()

    def death(self) -> tuple[str, str]:
        """Status and reason of what was lost with a child that ended, or closed its pipe."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "crashed", "its process closed its pipe"
        if code == -signal.SIGKILL:
            return "oom", "its process was killed (SIGKILL), which on Linux is what running out of memory looks like"
        if code < 0:
            return "crashed", f"its process died of {signal.Signals(-code).name}"
        said = self.tail(1)
        why = "os._exit, or a library that gave up" if said == _SILENT else said
        return "crashed", f"its process ended with exit code {code}: {why}"

    def mark(self) -> None:
        """Count only what is printed from now on as last words."""
        self._since = self._log.seek(0, os.SEEK_END)

    def tail(self, lines: int = 15) -> str:
        """The last lines of what the child printed."""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(self._since, self._log.tell() - 65536))
        return "\n".join(self._log.read().decode(errors="replace").strip().splitlines()[-lines:]) or _SILENT

    def limit(self, memory: int | None) -> None:
        """Lower the limit on its private memory from now on (Linux); what is above the present one changes nothing."""
        if memory is not None and sys.platform == "linux":
            import resource

            with contextlib.suppress(ProcessLookupError):
                now, _ = resource.prlimit(self.pid, resource.RLIMIT_DATA)
                lower = memory if now == resource.RLIM_INFINITY else min(memory, now)
                resource.prlimit(self.pid, resource.RLIMIT_DATA, (lower, lower))

    def bind(self, cpus: Collection[int]) -> None:
        """Bind the child to CPUs from now on; nothing where the system or a container cannot."""
        _bind(self.pid, cpus)

    def close(self, patience: float = 0.0) -> None:
        """End the child: its input ends, and it is killed when it is still there after ``patience`` seconds."""
        with contextlib.suppress(OSError):  # it died with a message in the pipe
            self._in.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if patience:
                self._process.wait(patience)
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        self._out.close()
        self._log.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _limit(parent: int, memory: int | None, cpus: Collection[int] | None) -> None:
    """In the child, before its program."""
    import resource

    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before that
            os._exit(1)
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    if cpus is not None:
        _bind(0, cpus)


def _bind(pid: int, cpus: Collection[int]) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, cpus)


def die_with_parent() -> None:
    """In a child, where no kernel does it: end within a second of the parent's death."""
    if _LIBC is None:
        parent = os.getppid()

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(1)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
