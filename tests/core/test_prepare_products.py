"""Products of small matrices in compiled kernels: every loop, on sizes that are no multiple of a register's."""

from __future__ import annotations

import pytest
import torch
from core_fakes import normal
from prepare_fakes import needs_compiler
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from hograd_core.prepare._table import table
from hograd_core.prepare.graphs._merge import merge_products
from hograd_core.prepare.graphs._nodes import is_call, propagate
from hograd_core.prepare.graphs._passes import clean
from hograd_core.prepare.graphs._unread import drop_unread
from hograd_core.prepare.inductor import _compile
from hograd_core.prepare.inductor._products import _PRODUCTS, form, use_products

Size = tuple[int, int, int, bool, bool]
# rows, k, n, A transposed, W transposed
SIZES: list[Size] = [
    (1, 9, 7, False, False), (2, 40, 33, False, False), (11, 13, 11, False, False), (5, 13, 70, False, True),
    (29, 70, 3, False, True), (30, 7, 5, False, False), (30, 7, 5, False, True), (20, 19, 37, False, False),
    (20, 19, 37, False, True), (20, 19, 37, True, False), (20, 19, 37, True, True), (3, 64, 50, True, False),
    (24, 5, 32, False, False), (4, 4, 32, True, False), (20, 19, 40, False, False), (20, 19, 45, False, True),
    (20, 19, 48, True, False), (20, 19, 33, False, False), (20, 19, 33, False, True), (20, 19, 49, True, False),
]  # fmt: skip

TOLERANCES = {torch.float32: {"rtol": 1e-5, "atol": 5e-5}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}


def test_every_loop_is_among_them() -> None:
    forms = {form(*size) for size in SIZES}
    assert forms == {"rows", "rows_turned", "small", "tiles"}
    assert form(4096, 4096, 4096, False, False) is None


def factors(sizes: list[Size], batch: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """A and W of each product, as they lie in memory."""
    found = []
    for i, (rows, k, n, turned_a, turned_w) in enumerate(sizes):
        shapes = (k, rows) if turned_a else (rows, k), (n, k) if turned_w else (k, n)
        found += [normal(*batch, *shape, seed=2 * i + j, dtype=dtype) for j, shape in enumerate(shapes)]
    return found


@needs_compiler
@pytest.mark.slow
def test_every_loop_multiplies() -> None:
    """In one kernel: all sizes in float32, a few in float64 and in batches, and a sum."""
    sizes = [*SIZES, *SIZES[7:10], SIZES[3], SIZES[8], SIZES[13]]
    inputs = [
        *factors(SIZES, (), torch.float32), *factors(SIZES[7:10], (), torch.float64),
        *factors([SIZES[3], SIZES[8], SIZES[13]], (3,), torch.float64),
    ]  # fmt: skip

    def function(*given: Tensor) -> Tensor:
        pairs = zip(given[::2], given[1::2], sizes, strict=True)
        found = [(a.mT if turned_a else a) @ (w.mT if turned_w else w) for a, w, (*_, turned_a, turned_w) in pairs]
        again = given[14] @ given[15].sin() + found[0].sum() + given[16].cos() @ given[17].mT
        return torch.cat([p.double().reshape(-1) for p in (*found, again)])

    module = make_fx(function, decomposition_table=table("compiled"))(*inputs)
    propagate(module, inputs)
    run = _compile.compiled(clean(module), inputs, "cpu")
    assert sum(is_call(node, _PRODUCTS) for node in module.graph.nodes) == len(sizes) + 1
    (result,) = run(inputs)
    expected = function(*(t.double() for t in inputs))
    assert torch.allclose(result, expected, rtol=1e-5, atol=2e-5)
    start, end = sum(rows * n for rows, _, n, *_ in SIZES), len(result) - 20 * 37  # what float64 computed
    assert torch.allclose(result[start:end], expected[start:end], rtol=1e-12, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrices_beyond_the_first_cache_multiply_whose_next_rows_are_fetched_ahead(dtype: torch.dtype) -> None:
    """By both streams, one row to more than registers hold, at sizes that no number of rows at a time divides."""
    k, n = 131, 127
    w = normal(k, n, seed=0)
    given = [
        normal(rows, size, seed=rows) for rows in (*range(1, 8), 9, 12) for size in (k, n) if rows < 8 or size == k
    ]
    inputs = [t.to(dtype) for t in (w, *given)]

    def function(w: Tensor, *given: Tensor) -> Tensor:
        return torch.cat([(a @ (w if a.shape[1] == k else w.mT)).reshape(-1) for a in given])

    module = make_fx(function, decomposition_table=table("compiled"))(*inputs)
    propagate(module, inputs)
    run = _compile.compiled(clean(module), inputs, "cpu")
    assert sum(is_call(node, _PRODUCTS) for node in module.graph.nodes) == len(given)
    assert torch.allclose(run(inputs)[0].double(), function(*(t.double() for t in inputs)), **TOLERANCES[dtype])


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrices_of_a_batch_lie_anywhere_or_are_one(dtype: torch.dtype) -> None:
    """Shared by all products, transposed or not; in slices of a larger tensor; transposed before they were repeated."""
    rows = normal(9, 300, seed=0).to(dtype)
    x, y, z = (normal(*shape, seed=i).to(dtype) for i, shape in enumerate([(64, 16), (10, 64), (33, 20)]))
    inputs = [rows, x, y, z]

    def function(rows: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        first = rows[:, 8:136].view(9, 8, 16)
        second = rows[:, 136:276].view(9, 7, 20)
        parts = [
            x.expand(9, 64, 16) @ first.mT,
            first @ x.mT.expand(9, 16, 64),
            y.mT.expand(9, 64, 10).mT @ (x @ first.mT),
            second @ z.mT.expand(9, 20, 33),
            second @ second.mT,
            z.expand(9, 33, 20) @ second.mT,
            first.sum(1, keepdim=True) @ x.T.expand(9, 16, 64),
        ]
        return torch.cat([part.reshape(-1) for part in parts])

    module = make_fx(function, decomposition_table=table("compiled"))(*inputs)
    propagate(module, inputs)
    run = _compile.compiled(clean(module), inputs, "cpu")
    assert sum(is_call(node, _PRODUCTS) for node in module.graph.nodes) == 7
    (result,) = run(inputs)
    assert torch.allclose(result.double(), function(*(t.double() for t in inputs)), **TOLERANCES[dtype])


@needs_compiler
def test_threads_share_rows_columns_panels_and_batches() -> None:
    shapes = [(2, 400, 600), (8000, 24, 15), (8001, 20, 16), (100, 150, 300), (3, 600, 400)]
    inputs = [normal(*shape, seed=i) for i, (m, k, n) in enumerate(shapes) for shape in ((m, k), (k, n))]

    def function(*given: Tensor) -> Tensor:
        return torch.cat([(a @ w).reshape(-1) for a, w in zip(given[::2], given[1::2], strict=True)])

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        module = make_fx(function, decomposition_table=table("compiled"))(*inputs)
        propagate(module, inputs)
        run = _compile.compiled(clean(module), inputs, "cpu")
        assert sum(is_call(node, _PRODUCTS) for node in module.graph.nodes) == len(shapes)
        others = [t.flip(0) for t in inputs]  # memory that a thread left out may hold what the trace computed
        assert torch.allclose(run(others)[0], function(*others), rtol=1e-10, atol=1e-10)
    finally:
        torch.set_num_threads(before)


def test_a_sum_of_products_is_one_operation() -> None:
    a, w, b, u = (normal(*shape, seed=i) for i, shape in enumerate([(20, 19), (19, 37), (8, 20), (37, 8)]))

    def f(a: Tensor, w: Tensor, b: Tensor, u: Tensor) -> Tensor:
        return a @ w + b.t() @ u.t() + a @ w.sin()

    module = make_fx(f)(a, w, b, u)
    propagate(module, [a, w, b, u])
    use_products(clean(module))
    assert sum(is_call(node, _PRODUCTS) for node in module.graph.nodes) == 1
    assert torch.allclose(module(a, w, b, u), f(a, w, b, u), rtol=1e-12)


def test_matrices_laid_side_by_side_leave_views_of_their_products_alone() -> None:
    a, w, u = normal(20, 19, seed=0), normal(19, 5, seed=1), normal(7, 19, seed=2)

    def f(a: Tensor, w: Tensor, u: Tensor) -> Tensor:
        return torch.cat([(a @ w).view(-1), (a @ u.t()).view(2, -1).sum(0)])

    module = make_fx(f)(a, w, u)
    propagate(module, [a, w, u])
    merge_products(clean(module), columns=True)
    assert sum(is_call(node, torch.ops.aten.mm.default) for node in module.graph.nodes) == 1
    assert torch.allclose(module(a, w, u), f(a, w, u), rtol=1e-12)


def test_gradients_of_a_convolution_that_nobody_reads_are_not_computed() -> None:
    shapes = (2, 3, 6, 7), (2, 5, 6, 7), (5, 3, 3, 3)
    x, g, w = (normal(*shape, seed=i) for i, shape in enumerate(shapes))

    def f(x: Tensor, g: Tensor, w: Tensor) -> Tensor:
        how = [5], [1, 1], [1, 1], [1, 1], False, [0, 0], 1
        found: Tensor = torch.ops.aten.convolution_backward(g, x, w, *how, [True, True, True])[1]
        return found

    module = make_fx(f)(x, g, w)
    propagate(module, [x, g, w])
    drop_unread(clean(module))
    backward = [node for node in module.graph.nodes if is_call(node, torch.ops.aten.convolution_backward.default)]
    assert [node.args[-1] for node in backward] == [[False, True, False]]
    assert torch.allclose(module(x, g, w), f(x, g, w), rtol=1e-12)
