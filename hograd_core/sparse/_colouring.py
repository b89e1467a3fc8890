"""Colours for the columns of a symmetric matrix, few enough that its entries can be read off one product a colour.

A star colouring (neighbours differ, and every path of four vertices has three colours) lets each entry be read
directly, h_ij from the product of i's or of j's colour (Coleman & Moré 1984). Vertices are coloured greedily, in
smallest-last order (Matula & Beck 1983), by Gebremedhin, Tarafdar, Manne & Pothen 2007, algorithm 4.1: time
proportional to the sum of the squared degrees. Rows that are nearly full would use up the colours of all others; they
have colours of their own.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from hograd_core.sparse._sets import Sets, numbers, starts_of

_MOST_STEPS = 2**24
"""Sum of squared degrees above which no colouring is looked for: some ten seconds."""


@dataclass(frozen=True, eq=False)
class Colouring:
    """Which columns go into one product, and where in the products each entry is.

    Attributes:
        colours: of each column, from 0; int64, (n,).
        count: how many there are.
        rows, columns: the entries, sorted by row.
        read_row, read_colour: h at (rows, columns) is entry ``read_row`` of the product of colour ``read_colour``.
    """

    colours: Tensor
    count: int
    rows: Tensor
    columns: Tensor
    read_row: Tensor
    read_colour: Tensor

    @property
    def n(self) -> int:
        """Number of columns."""
        return self.colours.numel()

    @functools.cached_property
    def read(self) -> Tensor:
        """Where the entries are in the products, laid end to end."""
        return self.read_colour * self.n + self.read_row

    @functools.cached_property
    def where(self) -> Tensor:
        """Where the entries are in the matrix, row-major."""
        return self.rows * self.n + self.columns

    @functools.cached_property
    def starts(self) -> Tensor:
        """Where each row's entries begin, and where the last one's end."""
        return starts_of(torch.bincount(self.rows, minlength=self.n))

    def on(self, device: torch.device) -> Colouring:
        """The same with its tensors on a device."""
        tensors = {f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self) if f.name != "count"}
        return dataclasses.replace(self, **tensors)


def colouring(pattern: Sets) -> Colouring:
    """Colours for a symmetric pattern, and the plan by which entries are recovered."""
    n = pattern.n
    rows, columns = pattern.rows, pattern.members
    colours = torch.tensor(_colours(pattern, rows, columns), device="cpu")
    # h_ij is alone in row i of the product of j's colour, or in row j of the product of i's.
    here = rows * n + colours[columns]
    _, which, counts = here.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    alone = counts[which] == 1
    read_row = torch.where(alone, rows, columns)
    read_colour = torch.where(alone, colours[columns], colours[rows])
    # Entries below the diagonal are read where those above it are: the matrix is symmetric to the last digit.
    above = torch.searchsorted(rows * n + columns, torch.minimum(rows, columns) * n + torch.maximum(rows, columns))
    read_row, read_colour = read_row[above], read_colour[above]
    return Colouring(colours, int(colours.max()) + 1, rows, columns, read_row, read_colour)


def _colours(pattern: Sets, rows: Tensor, columns: Tensor) -> list[int]:
    n = pattern.n
    off = rows != columns
    degrees = torch.bincount(rows[off], minlength=n)
    # With the k largest rows taken out, the others need at least as many colours as their largest degree and one.
    largest, order = degrees.sort(descending=True, stable=True)
    needed = numbers(n) + largest + 1
    dense = order[: int(needed.argmin())]
    left = torch.ones(n, dtype=torch.bool, device="cpu")
    left[dense] = False
    inside = off & left[rows] & left[columns]
    if int(needed.min()) >= n or float(torch.bincount(rows[inside], minlength=n).double().square().sum()) > _MOST_STEPS:
        return list(range(n))
    ends = torch.bincount(rows[inside], minlength=n).cumsum(0).tolist()
    flat = columns[inside].tolist()
    neighbours = [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    colours = star_colouring(neighbours, smallest_last(neighbours))
    first = 1 + max((c for c, free in zip(colours, left.tolist(), strict=True) if free), default=-1)
    for own, vertex in enumerate(dense.tolist(), first):
        colours[vertex] = own
    return colours


def uncoupled(pattern: Sets) -> list[list[int]]:
    """Indices in groups, greedily few, no two of a group related; those not related even to themselves in none.

    Of a Hessian's pattern: coordinates whose second derivatives a single direction, the group's sum, adds up.
    """
    rows, columns = pattern.rows, pattern.members
    own = torch.zeros(pattern.n, dtype=torch.bool, device="cpu")
    own[rows[rows == columns]] = True
    left = own.nonzero().reshape(-1).tolist()
    if pattern.members.numel() == pattern.n**2:
        return [[i] for i in left]
    off = rows != columns
    ends = torch.bincount(rows[off], minlength=pattern.n).cumsum(0).tolist()
    flat = columns[off].tolist()
    neighbours = [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    colours = [-1] * pattern.n
    groups: list[list[int]] = []
    kept = set(left)
    for vertex in smallest_last(neighbours):
        if vertex not in kept:
            continue
        taken = {colours[w] for w in neighbours[vertex]}
        colours[vertex] = next(c for c in range(len(groups) + 1) if c not in taken)
        if colours[vertex] == len(groups):
            groups.append([])
        groups[colours[vertex]].append(vertex)
    return groups


def smallest_last(neighbours: list[list[int]]) -> list[int]:
    """An order in which each vertex has few neighbours before it: of the smallest degree among those left, last."""
    degrees = [len(each) for each in neighbours]
    buckets: list[list[int]] = [[] for _ in range(max(degrees, default=0) + 1)]
    for vertex, degree in enumerate(degrees):
        buckets[degree].append(vertex)
    removed = [False] * len(neighbours)
    order: list[int] = []
    smallest = 0
    while len(order) < len(neighbours):
        while not buckets[smallest]:
            smallest += 1
        vertex = buckets[smallest].pop()
        if removed[vertex] or degrees[vertex] != smallest:
            continue  # an entry from before its degree fell
        removed[vertex] = True
        order.append(vertex)
        for other in neighbours[vertex]:
            if not removed[other]:
                degrees[other] -= 1
                buckets[degrees[other]].append(other)
        smallest = max(smallest - 1, 0)
    return order[::-1]


def star_colouring(neighbours: list[list[int]], order: list[int]) -> list[int]:
    """Colours from 0 with no two-coloured path of four vertices."""
    n = len(neighbours)
    colours = [-1] * n
    forbidden: list[int] = []  # by colour: the vertex that may not have it
    first: list[tuple[int, int]] = []  # by colour: the vertex under way, and its first neighbour of that colour
    treated = [-1] * n
    star: dict[tuple[int, int], int] = {}
    hubs: list[int] = []

    def of_edge(a: int, b: int) -> tuple[int, int]:
        return (a, b) if a < b else (b, a)

    def treat(vertex: int, neighbour: int) -> None:
        for x in neighbours[neighbour]:
            if colours[x] >= 0:
                forbidden[colours[x]] = vertex
        treated[neighbour] = vertex

    for vertex in order:
        coloured = [w for w in neighbours[vertex] if colours[w] >= 0]
        for w in coloured:
            colour = colours[w]
            forbidden[colour] = vertex
            seen, other = first[colour]
            if seen == vertex:  # two neighbours of one colour: none of theirs may be the vertex's
                if treated[other] != vertex:
                    treat(vertex, other)
                treat(vertex, w)
            else:
                first[colour] = (vertex, w)
                for x in neighbours[w]:
                    if x != vertex and colours[x] >= 0 and hubs[star[of_edge(w, x)]] == x:
                        forbidden[colours[x]] = vertex
        mine = next((c for c, by in enumerate(forbidden) if by != vertex), len(forbidden))
        colours[vertex] = mine
        if mine == len(forbidden):
            forbidden.append(-1)
            first.append((-1, -1))
        for w in coloured:
            edge = of_edge(vertex, w)
            spoke = next((x for x in neighbours[w] if x != vertex and colours[x] == mine), None)
            seen, other = first[colours[w]]
            if spoke is not None:
                star[edge] = star[of_edge(w, spoke)]
                hubs[star[edge]] = w
            elif seen == vertex and other != w:
                star[edge] = star[of_edge(vertex, other)]
                hubs[star[edge]] = vertex
            else:
                star[edge] = len(hubs)
                hubs.append(-1)
    return colours
