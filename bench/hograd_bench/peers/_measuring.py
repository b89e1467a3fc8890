"""A whole campaign: who is there, measure, one checked document under results/."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from hograd_bench import environment, store
from hograd_bench.peers import peers
from hograd_bench.peers._campaign import BURST_SECONDS, ROUNDS, Campaign, row
from hograd_bench.peers._contests import contests
from hograd_bench.peers._document import KIND, Document, document

PROCESSES = 2


def usable_cpu() -> int | None:
    """The CPU that a campaign binds its processes to: the last that this process may use; None: cannot bind."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def measure(
    only: str = "",
    processes: int = PROCESSES,
    cpu: int | None = None,
    failures: Mapping[str, str] | None = None,
    heard: Callable[[str], None] = lambda line: None,
) -> Document:
    """Measure all peers on all contests.

    Args:
        only: keep contests whose id contains this text.
        processes: generations of fresh processes.
        cpu: the CPU to use; None: :func:`usable_cpu`.
        failures: peer -> why it could not be installed.
        heard: called with a line of progress.

    Returns:
        The document; every offer in every contest has a row.

    Raises:
        ValueError: no contest is left, or fewer than one process.
    """
    chosen = [c for c in contests() if only in c.id]
    if not chosen:
        raise ValueError(f"--only: no contest's id contains {only!r}; they are {', '.join(c.id for c in contests())}")
    if processes < 1:
        raise ValueError(f"--processes: got {processes}, expected at least 1")
    everyone = list(peers().values())
    where = usable_cpu() if cpu is None else cpu
    started = time.monotonic()
    torch.set_num_threads(1)
    campaign = Campaign(chosen, everyone, where, failures or {}, heard)
    campaign.run(processes)
    rows = [row(entry) for entry in campaign.entries]
    described = [_describe(peer, campaign.versions[peer.name], rows) for peer in everyone]
    settings = {
        "command": "hograd peers --run" + (f" --only {only}" if only else "") + f" --processes {processes}",
        "processes": processes,
        "rounds": ROUNDS,
        "burst_seconds": BURST_SECONDS,
        "threads": 1,
        "bound_to_one_cpu": where is not None,
        "wall_seconds": round(time.monotonic() - started, 1),
    }
    recorded = environment.record(
        sorted({p.distribution for p in everyone} | {r for p in everyone for r in p.requires})
    )
    return document(recorded, settings, described, rows)


def _describe(peer: Any, version: str | None, rows: list[dict[str, Any]]) -> dict[str, Any]:
    mine = [r for r in rows if r["peer"] == peer.name]
    # A peer that is there but takes no part at all says why in every one of its rows.
    reasons = {r["reason"] for r in mine}
    lost = next(iter(reasons)) if len(reasons) == 1 and mine and mine[0]["status"] != "ok" else None
    return {
        "name": peer.name,
        "distribution": peer.distribution,
        "home": peer.home,
        "framework": peer.framework,
        "version": None if version is None else version[:80],
        "reason": lost,
    }


def save(found: Document, results: str | Path) -> Path:
    """Write a document into its machine's folder under a results root; returns the file."""
    return store.write_study(results, str(found["environment"]["machine"]), KIND, found)
