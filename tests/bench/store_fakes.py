"""Rows, a machine and forked processes for the tests of the store."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from typing import Any

from hograd_bench import schema
from hograd_bench.cells import Cell

ENV = {"machine": "some-cpu-0123456789", "recorded": "2026-01-02T03:04:05+00:00", "torch": {"version": "2.13.0"}}
MACHINE = ENV["machine"]


def row(n: int, status: str = "ok", reason: str | None = None, **keywords: Any) -> schema.Row:
    return schema.row(Cell("derivative_tensor", "rows", "mlp", n), status, reason, **keywords)


def child(work: Callable[[], None]) -> int:
    """Fork a process that does ``work`` and nothing else; its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child touches no thread of ours
        pid = os.fork()
    if pid:
        return pid
    code = 1
    with contextlib.suppress(BaseException):
        work()
        code = 0
    os._exit(code)
