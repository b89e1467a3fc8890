"""The exact gate: bytes, allocations, dispatches, nodes and FLOPs against a baseline. Pure.

Every metric is an integer and smaller is better. A metric that grew fails; one that shrank is reported and asks to
be banked (an unbanked win hides the next loss of the same size); a cell or a metric that is gone, or runs no
more, fails. Sub-threshold drift cannot hide: the default tolerance is zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hograd_bench.gate.outcome import Finding, by_weight

OK = "ok"
WRONG = "wrong"
_SILENT = ("", "", "")


@dataclass(frozen=True)
class Entry:
    """What is kept of one cell.

    Attributes:
        status: ``ok``, or why there is nothing to compare ("unsupported", "failed", ...).
        metrics: integer metrics by name.
        ops: ATen dispatches by op, where counted.
        peak: bytes alive at the peak by "phase/op", where attributed.
        reason: in words, where the status is not ok; not stored.
    """

    status: str = OK
    metrics: Mapping[str, int] = field(default_factory=dict)
    ops: Mapping[str, int] = field(default_factory=dict)
    peak: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""


def compare(
    base: Mapping[str, Entry],
    head: Mapping[str, Entry],
    tolerance: Mapping[str, float] | None = None,
    *,
    stored: bool = True,
) -> list[Finding]:
    """What changed from ``base`` to ``head``.

    Args:
        base: entries by cell id.
        head: the same, now.
        tolerance: metric -> relative growth allowed (0.01: one percent); zero for metrics not named.
        stored: whether ``base`` is a committed baseline, to which improvements and new cells can be added.

    Returns:
        Findings, errors first.
    """
    allowed = tolerance or {}
    bank, add, gone = (
        ("; bank it: --update", "; add it: --update", "; if it is meant to go: --update") if stored else _SILENT
    )
    found: list[Finding] = []
    added = [cell for cell in head if cell not in base]
    for cell, before in base.items():
        after = head.get(cell)
        if after is None:
            found.append(_missing(cell, before, {name: head[name] for name in added}, gone))
        elif after.status == WRONG:
            found.append(Finding("wrong", cell, "result", after.reason))
        elif before.status == OK and after.status != OK:
            why = f": {after.reason}" if after.reason else ""
            found.append(Finding("broken", cell, "status", f"was ok, is {after.status} now{why}"))
        elif before.status != OK and after.status == OK:
            found.append(Finding("improvement", cell, "status", f"was {before.status}, is ok now{bank}"))
        elif before.status != after.status:
            found.append(Finding("broken", cell, "status", f"was {before.status}, is {after.status} now"))
        else:
            found += _metrics(cell, before, after, allowed, bank)
    for cell in added:
        if head[cell].status == WRONG:
            found.append(Finding("wrong", cell, "result", head[cell].reason))
            continue
        found.append(Finding("new", cell, "", f"was not there before ({head[cell].status} now){add}"))
    return by_weight(found)


def _metrics(cell: str, before: Entry, after: Entry, allowed: Mapping[str, float], bank: str) -> Iterable[Finding]:
    for name, old in before.metrics.items():
        new = after.metrics.get(name)
        if new is None:
            yield Finding("missing", cell, name, f"{name} is measured no more (was {old:,})", old)
        elif new > old * (1 + allowed.get(name, 0.0)):
            yield Finding("growth", cell, name, f"{name} {_step(old, new)}{blame(name, before, after)}", old, new)
        elif new < old:
            text = f"{name} {_step(old, new)}{blame(name, before, after)}{bank}"
            yield Finding("improvement", cell, name, text, old, new)
        # within the tolerance: neither; --since adds such steps up
    for name in after.metrics:
        if name not in before.metrics:
            text = f"{name} is new on this cell ({after.metrics[name]:,})"
            yield Finding("new", cell, name, text, None, after.metrics[name])


def _step(old: int, new: int) -> str:
    relative = f", {(new - old) / old:+.2%}" if old else ""
    return f"{old:,} -> {new:,} ({new - old:+,}{relative})"


def blame(metric: str, before: Entry, after: Entry) -> str:
    """Which ops, and for bytes which phases, account for a change; empty where nothing was recorded.

    Bytes are explained by what was alive at the peak, everything else by the ops dispatched.
    """
    tables = [("dispatched", before.ops, after.ops)]
    if "bytes" in metric:
        tables.insert(0, ("at the peak", before.peak, after.peak))
    for label, old, new in tables:
        steps = {key: new.get(key, 0) - old.get(key, 0) for key in {*old, *new}}
        moved = sorted((k for k in steps if steps[k]), key=lambda k: (-abs(steps[k]), k))
        if moved:
            shown = ", ".join(f"{key} {steps[key]:+,}" for key in moved[:4])
            more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
            return f"; {label}: {shown}{more}"
    return ""


def _missing(cell: str, before: Entry, added: Mapping[str, Entry], gone: str) -> Finding:
    twin = next((c for c, e in added.items() if e.metrics and e.metrics == before.metrics), None)
    hint = f"; renamed to {twin}?" if twin else ""
    return Finding("missing", cell, "", f"was there before, is not measured now{hint}{gone}")
