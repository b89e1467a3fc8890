"""Peak memory by memray, which sees every malloc of the process, beside the same call's allocator events.

PyTorch's CPU allocator takes its blocks with ``posix_memalign`` and nothing else in torch's usual path does (oneDNN
is the exception), so the running sum of those blocks must have the same peak as the events, to the byte. What the
other allocations add at the overall peak is memory that the events cannot see: LAPACK and FFT work space, MKL's
buffers, graph nodes and Python objects.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hograd_bench.cells import Cell
from hograd_bench.metrics import Subject
from hograd_bench.metrics._allocations import quiet_collector, trace
from hograd_bench.metrics._calls import repeatable, warm
from torch.nn.functional import conv2d

CELLS = tuple(
    Cell(operator, method, problem, n, 2, batch=batch)
    for operator, method, problem, n, batch in (
        ("derivative_vector_product", "double_backward", "mlp", 256, 1),
        ("derivative_vector_product", "jvp_of_grad", "mlp", 256, 1),
        ("derivative_vector_product", "double_backward", "mlp_loss", 8, 16),
        ("derivative_vector_product", "double_backward", "attention_loss", 8, 8),
        ("derivative_tensor", "func_hessian", "mlp", 64, 1),
        ("derivative_tensor", "rows", "mlp", 64, 1),
    )
)


@dataclass(frozen=True)
class Peaks:
    """Peak bytes of one warm call by three counts.

    Attributes:
        events: allocator events, the suite's instrument.
        aligned: memray, blocks taken with posix_memalign.
        everything: memray, all blocks.
    """

    events: int
    aligned: int
    everything: int


def operators() -> dict[str, Callable[[], Any]]:
    """Calls of single operators that are known for scratch of their own."""
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(400, 400, generator=generator)
    symmetric = square + square.T
    signal = torch.randn(2**18, dtype=torch.complex64, generator=generator)
    numbers = torch.randn(10**6, generator=generator)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    filters = torch.randn(8, 3, 3, 3, generator=generator).requires_grad_()
    return {
        "mm 400": lambda: square @ square,
        "sort 10⁶": lambda: torch.sort(numbers),
        "solve 400": lambda: torch.linalg.solve(square, square),
        "eigh 400": lambda: torch.linalg.eigh(symmetric),
        "svd 400": lambda: torch.linalg.svd(square),
        "fft 2¹⁸": lambda: torch.fft.fft(signal),
        "conv2d 4×3×32×32": lambda: conv2d(images, filters.detach()),
        "conv2d and its gradient": lambda: torch.autograd.grad(conv2d(images, filters).square().sum(), filters),
    }


def peaks(call: Callable[[], Any]) -> Peaks:
    """Compare the counts on one call, which is made four times: twice to warm up, then once for each instrument.

    Args:
        call: takes nothing.

    Returns:
        See :class:`Peaks`.

    Raises:
        ImportError: memray is not installed (it needs Linux or macOS).
    """
    for _ in range(2):
        call()
    events = trace(call).peak_bytes
    return Peaks(events, *_native(call))


def cell_peaks(cell: Cell) -> Peaks:
    """:func:`peaks` of a cell's call."""
    subject = Subject(cell)
    warm(subject)
    return peaks(repeatable(subject.call))


def _native(call: Callable[[], Any]) -> tuple[int, int]:
    import memray

    kinds = memray.AllocatorType
    with tempfile.TemporaryDirectory(prefix="hograd-") as folder:
        path = Path(folder, "native.bin")
        with quiet_collector(), memray.Tracker(path):
            result = call()
            del result
        alive: dict[int, tuple[int, bool]] = {}
        aligned_now = aligned_peak = now = peak = 0
        for record in memray.FileReader(path).get_allocation_records():
            kind = kinds(record.allocator)
            if kind in (kinds.FREE, kinds.MUNMAP):
                size, aligned = alive.pop(record.address, (0, False))
                size = -size
            else:
                size, aligned = record.size, kind == kinds.POSIX_MEMALIGN
                alive[record.address] = (size, aligned)
            now += size
            aligned_now += size if aligned else 0
            peak, aligned_peak = max(peak, now), max(aligned_peak, aligned_now)
    return aligned_peak, peak
