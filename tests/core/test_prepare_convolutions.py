"""Loops for small convolutions: every stride, padding, dilation; both directions, and gradients of kernels."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from prepare_fakes import needs_compiler
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from hograd_core.prepare.graphs._nodes import aten, is_call, propagate
from hograd_core.prepare.inductor._compile import compiled
from hograd_core.prepare.inductor._convolutions import _CONVOLUTION, _KERNEL_GRADIENT, _threads, use_convolutions

SETTINGS = [  # kernel, stride, padding, dilation, output padding
    ((3, 3), (1, 1), (1, 1), (1, 1), (0, 0)),
    ((1, 1), (1, 1), (0, 0), (1, 1), (0, 0)),
    ((2, 5), (1, 2), (0, 3), (1, 1), (0, 1)),
    ((3, 2), (2, 3), (1, 0), (2, 1), (1, 2)),
    ((1, 1), (2, 2), (0, 0), (1, 1), (1, 0)),
    ((3, 1), (3, 1), (4, 2), (1, 3), (0, 0)),
]
SHAPES = [(3, 2, 13, 9, 11), (1, 5, 1, 7, 16), (2, 17, 20, 6, 6)]  # images, channels, outputs, height, width


def lowered(f: Any, given: list[Tensor]) -> Any:
    """f's graph with the loops in it."""
    module = make_fx(f)(*given)
    propagate(module, given)
    use_convolutions(module)
    return module


def loops(module: Any) -> list[Any]:
    """What of the loops a graph calls, in order."""
    return [node.target for node in module.graph.nodes if is_call(node, _CONVOLUTION, _KERNEL_GRADIENT)]


def close(found: Any, expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        bound = 1e-5 if b.dtype == torch.float32 else 1e-13
        assert a.shape == b.shape
        assert a.is_contiguous()
        torch.testing.assert_close(a, b, rtol=0, atol=bound * (1 + float(b.abs().max())) * 10)


@needs_compiler
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_convolution_and_its_gradients(dtype: torch.dtype, transposed: bool) -> None:
    """Six settings of shapes in turn, with a bias or without, and their three gradients: in one kernel."""
    cases: list[Any] = []
    chosen = [
        (SHAPES[(i + j) % 3], s) for i, s in enumerate(SETTINGS) for j in range(2 if dtype == torch.float32 else 1)
    ]
    for (n, c, o, h, w), (kernel, *how, more) in chosen:
        draw = torch.Generator().manual_seed(len(cases))
        normal = lambda *shape, draw=draw: torch.randn(*shape, generator=draw, dtype=dtype)  # noqa: E731
        x, weight = normal(n, c, h, w), normal(*((c, o) if transposed else (o, c)), *kernel)
        settings = (*map(list, how), transposed, list(more) if transposed else [0, 0], 1)
        try:
            result = aten.convolution(x, weight, None, *settings)
        except RuntimeError:  # a kernel larger than its input, an output padding that the stride does not leave
            continue
        cases.append((x, weight, normal(o), normal(*result.shape), settings))

    def f(*given: Tensor) -> list[Tensor]:
        found = []
        for i, (*_, settings) in enumerate(cases):
            x, weight, bias, gradient = given[4 * i : 4 * i + 4]
            found.append(aten.convolution(x, weight, bias if i % 2 else None, *settings))
            found += aten.convolution_backward(gradient, x, weight, [len(bias)], *settings, [True, True, True])
        return found

    given = [t for case in cases for t in case[:-1]]
    module = lowered(f, given)
    assert len(cases) >= len(SETTINGS) - 1
    assert len(loops(module)) == 3 * len(cases)
    assert not any(is_call(n, aten.convolution.default, aten.convolution_backward.default) for n in module.graph.nodes)
    close(module(*given), f(*given))  # what the operations mean
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            close(compiled(make_fx(f)(*given), given, "cpu")(given), f(*given))
        finally:
            torch.set_num_threads(1)


@needs_compiler
def test_images_are_shared_out_and_views_begin_where_they_do() -> None:
    x, g, weight = torch.randn(10, 16, 20, 20), torch.randn(9, 12, 20, 20), torch.randn(13, 16, 3, 3)
    settings = [1, 1], [1, 1], [1, 1], False, [0, 0], 1

    def f(x: Tensor, weight: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        x, weight = x[1:], weight[1:]
        found: tuple[Tensor, ...] = aten.convolution_backward(g, x, weight, None, *settings, [True, True, False])
        return aten.convolution(x, weight, None, *settings), *found[:2]

    given, before = [x, weight, g], torch.get_num_threads()
    assert _threads(3, len(g), weight[1:].numel() * 400) == 3
    torch.set_num_threads(3)
    try:
        found = compiled(make_fx(f)(*given), given, "cpu")(given)
        assert len(found) == 3
        close(found, f(*given))
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_a_kernels_gradient_by_a_convolution_of_images_is_one() -> None:
    """As the derivative of a convolution's backward computes it: images and channels change places."""
    x, g = torch.randn(7, 3, 8, 9), torch.randn(7, 5, 4, 5)

    def f(x: Tensor, g: Tensor) -> tuple[Tensor]:
        swapped = x.permute(1, 0, 2, 3), g.permute(1, 0, 2, 3)
        return (aten.convolution(*swapped, None, [1, 1], [1, 1], [2, 2], False, [0, 0], 1).permute(1, 0, 2, 3),)

    module = lowered(f, [x, g])
    assert loops(module) == [_KERNEL_GRADIENT]
    found, expected = compiled(make_fx(f)(x, g), [x, g], "cpu")([x, g])[0], f(x, g)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("transposed", [False, True])
def test_sequences_are_images_of_one_row(transposed: bool) -> None:
    x, g = torch.randn(3, 4, 15), torch.randn(3, 6, 29 if transposed else 8)
    weight = torch.randn(4, 6, 3) if transposed else torch.randn(6, 4, 3)
    settings = [2], [1], [1], transposed, [0], 1

    def f(x: Tensor, weight: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = aten.convolution_backward(g, x, weight, [6], *settings, [True, True, True])
        swapped = x.permute(1, 0, 2), x.sin().permute(1, 0, 2)
        square = aten.convolution(*swapped, None, [1], [1], [1], False, [0], 1).permute(1, 0, 2).contiguous()
        return aten.convolution(x, weight, None, *settings), *found, square

    given = [x, weight, g]
    module = lowered(f, given)
    assert Counter(loops(module)) == {_CONVOLUTION: 2, _KERNEL_GRADIENT: 2}
    close(compiled(make_fx(f)(*given), given, "cpu")(given), f(*given))


def test_what_the_loops_do_not_serve_is_left() -> None:
    large = torch.randn(1, 64, 40, 40), torch.randn(64, 64, 3, 3)
    groups = torch.randn(1, 4, 5, 5), torch.randn(4, 1, 3, 3)
    volume = torch.randn(1, 4, 5, 5, 5), torch.randn(4, 4, 3, 3, 3)
    kinds = [
        (large, 1),
        (groups, 4),
        (volume, 1),
        ((*(t.to(torch.bfloat16) for t in (large[0][:, :2], large[1][:, :2])),), 1),
    ]
    for (x, weight), count in kinds:
        axes = x.dim() - 2
        settings = [1] * axes, [1] * axes, [1] * axes, False, [0] * axes, count

        def f(x: Tensor, w: Tensor, settings: Any) -> Tensor:
            found: Tensor = aten.convolution(x, w, None, *settings)
            return found

        assert not loops(lowered(partial(f, settings=settings), [x, weight]))
