"""What is told of a contest."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import math
import os
import re
from collections.abc import Callable, Mapping

import torch
from hograd_bench import system_info


def shown(side: str) -> str:
    """A side in a few words: a cell by its kind, method and preparation."""
    what, *rest = side.split("/")
    return " ".join([*what.split(":")[:-1], rest[0], rest[-1]]) if rest else side


def is_peer(side: str) -> bool:
    """Whether another package computes it, or it is what a product is measured by."""
    return re.search(r"(^|/|:)(jax|folx|backpack|linearize|gradient)", side) is not None


def line(name: str, least: Mapping[str, int | None]) -> tuple[str, ...]:
    """A contest in one line: the quickest of hograd's sides, prepared in each way and not, beside the quickest peer."""

    def quickest(of: Callable[[str], bool]) -> tuple[str, int] | None:
        able = [(side, ns) for side, ns in least.items() if ns is not None and of(side)]
        return min(able, key=lambda found: found[1], default=None)

    def prepared(kind: str) -> tuple[str, int] | None:
        return quickest(lambda side: not is_peer(side) and kind == preparation(side))

    def micro(found: tuple[str, int] | None) -> str:
        return "–" if found is None else f"{found[1] / 1e3:,.{1 if found[1] < 1e5 else 0}f}"

    mine, peer = quickest(lambda side: not is_peer(side)), quickest(is_peer)
    ratio = mine[1] / peer[1] if mine and peer else math.nan
    return (
        name, *map(micro, map(prepared, ("compiled", "graph", "eager"))), shown(peer[0]) if peer else "none",
        micro(peer), "–" if math.isnan(ratio) else f"{ratio:.{2 if ratio >= 0.1 else 3}f}",
    )  # fmt: skip


def preparation(side: str) -> str:
    """How a side of hograd's is prepared."""
    if side.startswith(("within", "extremes")):
        return "compiled"
    return side.rpartition("/")[2] if "/" in side else side.partition(":")[0].split()[1]


def conditions(threads: int) -> str:
    """When and on what the contests were held."""
    versions = [f"torch {torch.__version__}"]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions.append(f"JAX {importlib.metadata.version('jax')}")
    load = f"{os.getloadavg()[2]:.1f} processes wanted its CPUs in the last quarter of an hour"
    cpu = f"{system_info.cpu()['model']}, kernels for {torch.backends.cpu.get_cpu_capability()}"
    return f"{datetime.date.today()}, {cpu}, {threads} thread(s) a side, {', '.join(versions)}; {load}.\n"
