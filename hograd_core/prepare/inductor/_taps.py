"""Which element of a padded input each element of a small kernel meets, for all places of a convolution's result.

Along one axis, a convolution reads at place o, by element i of its kernel, input ``o*stride + i*dilation − padding``.
Where the padded input is kept in ``stride`` phases (every stride-th element, one phase after the other), consecutive
places read consecutive elements, so that vectors of results are sums of vectors of inputs. A transposed convolution
reads ``(o + padding − i*dilation) / stride`` where that is whole: its results come in ``stride`` phases, of which each
meets elements of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Results that meet the same elements of the kernel: ``count`` of them from ``first``, ``step`` apart.

    Attributes:
        count, first, step: which results.
        taps: (element of the kernel, place in the padded input of what it meets for the first result), each.
    """

    count: tuple[int, ...]
    first: tuple[int, ...]
    step: tuple[int, ...]
    taps: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Padded:
    """A padded input: per axis the zeros before it, the phases it is kept in, and the length of one."""

    before: tuple[int, ...]
    phases: tuple[int, ...]
    length: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def elements(self) -> int:
        """Of one channel."""
        (p, q), (rows, columns) = self.phases, self.length
        return p * q * rows * columns


_Axis = tuple[int, int, int, list[tuple[int, int, int, list[tuple[int, int, int]]]]]
"""Zeros before, phases, length of one; (count, first, step, (element, phase, place)) of each part."""


def padded(
    size: Sequence[int],
    kernel: Sequence[int],
    result: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
) -> Padded:
    """The plan of a convolution of two axes; ``size``, ``kernel``, ``result`` are of its input, kernel and result."""
    along = _transposed if transposed else _forward
    rows, columns = (along(*given) for given in zip(size, kernel, result, stride, padding, dilation, strict=True))
    phases, length = (rows[1], columns[1]), (rows[2], columns[2])
    parts = []
    for (m, i, s, vertical), (n, j, t, horizontal) in itertools.product(rows[3], columns[3]):
        taps = [
            (v * kernel[1] + h, ((p * phases[1] + q) * length[0] + y) * length[1] + x)
            for (v, p, y), (h, q, x) in itertools.product(vertical, horizontal)
        ]
        parts.append(Part((m, n), (i, j), (s, t), tuple(taps)))
    return Padded((rows[0], columns[0]), phases, length, tuple(parts))


def _forward(size: int, kernel: int, result: int, stride: int, padding: int, dilation: int) -> _Axis:
    taps = [(i, i * dilation % stride, i * dilation // stride) for i in range(kernel)]
    length = max(result + taps[-1][2], (size - 1 + padding) // stride + 1)
    return padding, stride, length, [(result, 0, 1, taps)]


def _transposed(size: int, kernel: int, result: int, stride: int, padding: int, dilation: int) -> _Axis:
    found = []
    for phase in range(stride):
        start = -((phase - padding) // stride)  # the first place of this phase, in the padded result, is the result's
        count = (result - 1 + padding - phase) // stride - start + 1
        taps = [
            (i, 0, start + (phase - i * dilation) // stride)
            for i in range(kernel)
            if (i * dilation - phase) % stride == 0
        ]
        if count > 0:
            found.append((count, stride * start + phase - padding, stride, taps))
    places = [(place, count) for count, _, _, taps in found for _, _, place in taps]
    before = max(0, -min(place for place, _ in places))
    length = before + max(size, max(place + count for place, count in places))
    moved = [(c, f, s, [(i, p, place + before) for i, p, place in taps]) for c, f, s, taps in found]
    return before, 1, length, moved
