"""Laplacians in as many directions as coordinates bend together: collapsed Taylor mode along sums of unit vectors.

Along e_i + e_j the second derivative is ∂_ii u + ∂_jj u + 2 ∂_ij u. Where nothing that u computes couples x_i and x_j
in a nonlinear way, ∂_ij u = 0 and one direction serves both; the Hessian's pattern says which do (:mod:`hograd_core.
sparse`), and its colours are the directions. A sum over particles or blocks takes as many as the largest block has
coordinates, a chain two, and coordinates that enter linearly take none.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from hograd_core._entrance import in_transform, kept
from hograd_core.applications._calls import plain_call, watched_call
from hograd_core.applications._collapsed import summed
from hograd_core.applications._fields import without_graph
from hograd_core.applications._partials import Field, values
from hograd_core.prepare.graphs._trace import Reads, apart, tracing
from hograd_core.sparse._colouring import uncoupled
from hograd_core.sparse._sets import Sets, TooManyError, numbers, sets
from hograd_core.sparse._trace import Trace
from hograd_core.taylor._packed import Plan, planned, summed_by_plan

_LEAST = 2**12
"""Numbers in the unit vectors at all points from which to find groups can pay: it takes as long as some tens of calls
of small operations. A kernel that is prepared finds them once, and looks in any case."""


def summed_by_groups(u: Field, points: Tensor) -> Tensor:
    """Δu at every point, shape (N,)."""
    u = without_graph(u)
    groups = groups_of(u, points)
    if not groups:  # linear in every coordinate, as far as can be seen; a direction still runs u, and asks its rules
        groups = [[0]]
    plan = plan_of(u, points, groups) if tracing() and len(groups) > 1 else None
    if plan is not None:
        all_of_them = [float(any(i in group for group in groups)) for i in range(points.shape[1])]
        together = torch.tensor(all_of_them, dtype=points.dtype, device=points.device).expand(points.shape)
        field = watched_call(u)
        with contextlib.suppress(TooManyError):
            return summed_by_plan(lambda x: values(field, x), points, together, 2, plan, recorded=kept())
    rows = [[float(i in group) for i in range(points.shape[1])] for group in map(set, groups)]
    directions = torch.tensor(rows, dtype=points.dtype, device=points.device)
    return summed(u, points, directions[:, None].expand(-1, *points.shape), 2, [1.0] * len(groups))


def groups_of(u: Field, points: Tensor) -> list[list[int]]:
    """Coordinates in groups, no two of a group with a mixed second derivative of u at any of the points."""
    d = points.shape[1]
    each = [[i] for i in range(d)]
    if d == 1 or in_transform() or (points.numel() * d < _LEAST and not tracing()):
        return each
    with apart():
        pattern = _pattern(u, points)
        return each if pattern is None else uncoupled(pattern)


def plan_of(u: Field, points: Tensor, groups: list[list[int]]) -> Plan | None:
    """How derivatives along the groups' sums are packed where elements depend on few; None: they are better not.

    Kernels alone are worth the time it takes.
    """
    plain, reads = plain_call(u), Reads()
    with apart(), reads:
        few = points[:2].detach().clone()  # u may write into what it is given
        count, many = few.shape[0], len(groups)
        numbered = [(i, r) for r, group in enumerate(groups) for i in group]
        pairs = [(p * few.shape[1] + i, p * many + r) for p in range(count) for i, r in numbered]
        rows, members = torch.tensor(pairs, device="cpu").unbind(1)
        try:
            plan = planned(lambda x: values(plain, x), few, sets(rows, members, few.numel(), count * many))
        except Exception:  # u is at fault, as its next call says, or has something of its own for each of the points
            return None
    return plan if plan.work < plan.full and not reads.seen else None


def _pattern(u: Field, points: Tensor) -> Sets | None:
    """Which coordinates may have second derivatives with which, at any point; None: nothing is known.

    Two points tell for all of them, unless values decide: then all points are followed, and a trace, which must hold
    for other points too, learns nothing.
    """
    plain = plain_call(u)
    few = points[:2].detach().clone()  # u may write into what it is given
    for x in (few, points.detach().clone()) if points.shape[0] > 2 else (few,):
        trace, reads = Trace(x, numbers(x.shape[1]).repeat(x.shape[0]), stop=True), Reads()
        try:
            with trace, reads:
                values(plain, x)
        except TooManyError:
            return None
        except Exception:  # u has something of its own for each of the N points; or is at fault, as its next call says
            continue
        if not (trace.looked or trace.read or reads.seen):
            return trace.pattern()
        if x.shape == points.shape and not tracing():
            return trace.pattern()
    return None
