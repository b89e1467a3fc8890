"""A worker process seen from outside: one question, one answer, a limit on the wait, and no way to hang."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class LostError(RuntimeError):
    """The process is gone; ``status`` is "crashed" or "timeout"."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Remote:
    """A process of :mod:`hograd_bench.peers._worker` for one peer, on one CPU.

    Args:
        peer: its name.
        variables: environment variables of its own.
        cpu: the CPU it is bound to, where the system can bind; None: any.
    """

    def __init__(self, peer: str, variables: Mapping[str, str], cpu: int | None) -> None:
        command = [sys.executable, "-m", "hograd_bench.peers._worker", str(os.getpid()), peer]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, **THREADS, **variables},
        )
        if cpu is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, {cpu})  # before any thread of a library is born

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The reply to a request.

        Args:
            request: see the worker.
            seconds: how long to wait; then the process is killed.

        Returns:
            The reply; ``reply["ok"]`` says whether it was met.

        Raises:
            LostError: the process died or overstayed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._lost() from None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                self.close()
                raise LostError("timeout", f"no answer within {seconds:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._lost()
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _lost(self) -> LostError:
        code = self._process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._said.seek(0)
        last = (self._said.read().decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        return LostError("crashed", f"its process ended with {name}: {last[:200]}")

    def close(self) -> None:
        """End the process, and wait for it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                # A request that never reached the dead process is flushed once more here, and fails once more.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
