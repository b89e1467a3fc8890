"""Figures against limits: why a call is over, with the operators and phases that account for it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from hograd_bench import units
from hograd_bench.limits._marks import Limits

if TYPE_CHECKING:
    from hograd_bench.limits._figures import Figures
    from hograd_bench.metrics._allocations import Held

_SHOWN = 8


def over(figures: Figures, limits: Limits) -> str:
    """Why a call is over its limits; "": it is not."""
    return "\n".join(_over(figures, limits))


def _over(figures: Figures, limits: Limits) -> Iterator[str]:
    if limits.peak is not None and figures.peak_bytes > limits.peak:
        yield f"peak: took {size(figures.peak_bytes)} at most, allowed {size(limits.peak)}; at the peak there were"
        yield from held(figures.at_peak)
    if limits.leaks is not None and figures.retained_bytes > limits.leaks:
        yield (
            f"leaks: {size(figures.retained_bytes)} are alive after the result was deleted, allowed "
            f"{size(limits.leaks)}; they were taken by"
        )
        yield from held(figures.left)
    unit = figures.gradient_calls
    if limits.ops is not None and unit is not None and figures.aten_calls > limits.ops * unit:
        ratio = f"{figures.aten_calls / unit:.4g} gradients" if unit else "a gradient of none"
        yield (
            f"ops: dispatched {figures.aten_calls:,} operators, {ratio} of {unit:,} each, allowed {limits.ops:g} "
            "gradients; most of them"
        )
        yield from counted(figures.by_op)


def size(value: float) -> str:
    """Bytes as they read, and to the last one."""
    text, exact = units.binary(value), f"{value:,.0f} B"
    return exact if text == f"{value:.0f} B" else f"{text} ({exact})"


def held(rows: Iterable[Held]) -> Iterator[str]:
    """Who took bytes, a line each: phase, operator, and what it is within where that is another."""
    listed = list(rows)
    for row in listed[:_SHOWN]:
        within = "" if row.within in (row.op, "-") else f" within {row.within}"
        blocks = "1 block" if row.blocks == 1 else f"{row.blocks:,} blocks"
        yield f"    {size(row.bytes)} in {blocks} by {row.op}{within}, {row.phase}"
    if len(listed) > _SHOWN:
        yield f"    {size(sum(r.bytes for r in listed[_SHOWN:]))} by {len(listed) - _SHOWN} more"


def counted(by_op: Mapping[str, int]) -> Iterator[str]:
    """Operators and how often each, most first."""
    ordered = sorted(by_op.items(), key=lambda item: (-item[1], item[0]))
    for op, number in ordered[:_SHOWN]:
        yield f"    {number:,} {op}"
    if len(ordered) > _SHOWN:
        yield f"    {sum(n for _, n in ordered[_SHOWN:]):,} of {len(ordered) - _SHOWN} more"
