"""Functions that write into views, read memory by strides, or hold constants: as graphs and compiled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from core_fakes import F64, normal
from prepare_fakes import close, dispatched, needs_compiler
from torch import Tensor
from torch.fx import Graph, GraphModule

from hograd_core import hessian, hvp, prepare
from hograd_core.prepare._table import table
from hograd_core.prepare.graphs._nodes import aten, insert, insert_input, is_call, output, value
from hograd_core.prepare.graphs._passes import clean
from hograd_core.prepare.graphs._record import record
from hograd_core.prepare.graphs._strided import plain_views
from hograd_core.prepare.inductor import _compile

COMPILED = (needs_compiler, pytest.mark.slow)


def rows_and_columns(x: Tensor) -> Tensor:
    z = x.view(2, 3).clone()
    z[1] = z[0].clone() * 2
    z[:, 0] = x[:2] ** 2
    z[0:1, 1:3] *= 2
    return z.pow(3).sum()


def pieces(x: Tensor) -> Tensor:
    z = x.clone()
    z[1:4] = x[:3] * x[3:]
    z[::2] += x[:3].sin()
    return z.pow(3).sum()


def diagonals(x: Tensor) -> Tensor:
    z = torch.outer(x, x)
    z.diagonal()[1:4] = x[:3] ** 3
    z.view(-1)[2:30:7].mul_(x[:4])
    return z.pow(3).sum()


def transposed(x: Tensor) -> Tensor:
    z = torch.outer(x, x.sin()).t()
    z.diagonal().mul_(x)
    z[::2, 1:4] = x[1:4]
    z[3] += x
    return z.pow(3).sum()


def windows(x: Tensor) -> Tensor:
    return torch.as_strided(x.clone(), (3, 2), (1, 2), 1).sin().prod(1).sum()


def windows_of_a_transpose(x: Tensor) -> Tensor:
    return torch.as_strided(x.square().view(2, 3).t(), (3, 2), (1, 2), 1).sin().prod(1).sum()


def memory_of_a_copy(x: Tensor) -> Tensor:
    return (torch.as_strided(x[1:4].clone(), (2,), (1,), 0) ** 3).sum()


def unfolded(x: Tensor) -> Tensor:
    image = x.view(1, 1, 2, 3).repeat(1, 1, 2, 1)
    return torch.nn.functional.unfold(image, 2).pow(3).sum() + x.unfold(0, 3, 1).prod(1).sum()


def copied_into_a_transpose(x: Tensor) -> Tensor:
    z = torch.zeros(3, 2, dtype=x.dtype).t()
    z.copy_(x.view(2, 3).sin())
    return z.t().view(-1)[1:].pow(3).sum()  # a view in that layout alone


def every_other(x: Tensor) -> Tensor:
    """Of its slices the ends are beyond what there is."""
    return torch.cat([x[::2], x[1::2]]).pow(3).sum() * x[1]


def traces(x: Tensor) -> Tensor:
    return torch.trace(x.view(2, 3) @ x.view(3, 2)) ** 2 + torch.trace(input=torch.outer(x, x).sin())


def filled(x: Tensor) -> Tensor:
    """A constant, beside an operation that inductor takes apart first."""
    y = x.index_select(0, torch.tensor([5, 0, 0, 3, 2, 1])).logcumsumexp(0)
    return (y.view(2, 3) @ y.view(3, 2)).diagonal().pow(3).sum()


def numbers_of_another_kind(x: Tensor) -> Tensor:
    z = torch.zeros(2, 6, dtype=torch.float32)
    z[:] = x * 2
    z[1] = x.double().square()
    return z.double().pow(3).sum()


WRITING: list[Callable[[Tensor], Tensor]] = [
    rows_and_columns, pieces, diagonals, transposed, windows, windows_of_a_transpose, memory_of_a_copy, unfolded,
    copied_into_a_transpose, every_other, traces, filled,
]  # fmt: skip


def several_of_them(x: Tensor) -> Tensor:
    """In one kernel: to compile each takes ten seconds."""
    return torch.stack([f(x) for f in (pieces, diagonals, windows, unfolded, traces, filled)]).sum()


@pytest.mark.parametrize(
    ("f", "preparation"), [*((f, "graph") for f in WRITING), pytest.param(several_of_them, "compiled", marks=COMPILED)]
)
def test_memory_by_strides(f: Callable[[Tensor], Tensor], preparation: str) -> None:
    x, v, w = (normal(6, seed=s).abs() + 0.5 for s in range(3))
    product = prepare(hvp, f, x, preparation=preparation)
    matrix = prepare(hessian, f, x, preparation=preparation)
    assert product.preparation == matrix.preparation == preparation, product.explain() + matrix.explain()
    assert close(product(x, v), hvp(f, x, v))
    assert close(product(w, v), hvp(f, w, v))
    assert close(matrix(w), hessian(f, w))
    if preparation == "graph":
        both = product.bind(x)(torch.stack([v, w]), in_dims=0)
        assert close(both, torch.stack([hvp(f, x, v), hvp(f, x, w)]))


def test_copies_are_what_was_copied() -> None:
    """Of another dtype, too: rounded where it was written, and nowhere else."""
    x, v = normal(6).abs() + 0.5, normal(6, seed=1)
    p = prepare(hvp, numbers_of_another_kind, x, preparation="graph")
    assert p.preparation == "graph", p.explain()
    assert " copy." not in p.explain()
    assert torch.equal(p(x, v), hvp(numbers_of_another_kind, x, v))


@pytest.mark.parametrize(
    ("base", "size", "stride", "offset"),
    [
        ((6,), (3,), (2,), 1), ((4, 5), (5,), (1,), 10), ((4, 5), (4,), (5,), 3), ((4, 5), (2, 3), (10, 1), 6),
        ((4, 5), (4,), (6,), 0), ((2, 3, 4), (2, 4), (12, 1), 4), ((2, 3, 4), (3, 2), (4, 2), 13),
        ((4, 1), (4, 1), (1, 1), 0), ((4, 5), (3, 3), (1, 1), 0), ((4, 5), (5, 4), (1, 5), 0), ((6,), (), (), 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_reads_and_writes_by_strides(
    base: tuple[int, ...], size: tuple[int, ...], stride: tuple[int, ...], offset: int, turned: bool
) -> None:
    x = normal(*base[::-1]).permute(*reversed(range(len(base)))) if turned else normal(*base)
    part = torch.as_strided(x, size, stride, offset)
    calls: list[Callable[..., Tensor]] = [lambda x, _: torch.as_strided(x, size, stride, offset) * 1]
    if len(set(torch.arange(x.numel()).as_strided(size, stride, offset).reshape(-1).tolist())) == part.numel():
        calls.append(lambda x, y: torch.as_strided_scatter(x, y, size, stride, offset) * 1)
    for call in calls:
        given = x, normal(*size, seed=1)
        module = record(call, given)
        plain_views(module)
        module.recompile()
        assert not [n for n in module.graph.nodes if "as_strided" in str(n.target)]
        result = module(*given)
        assert torch.equal(result, call(*given))
        held = output(module.graph).all_input_nodes[0].meta["val"]
        for d in [d for d, n in enumerate(result.shape) if n > 1]:
            assert result.stride(d) == call(*given).stride(d) == held.stride(d)


@pytest.mark.parametrize(
    ("part", "offset"),
    [(lambda x: x[:, :3], 4), (lambda x: x[:2], 11), (lambda x: x[2:], 4)],
    ids=["between", "after", "before"],
)
def test_memory_that_a_tensor_does_not_show(part: Callable[[Tensor], Tensor], offset: int) -> None:
    """Beyond a slice's own elements there is other memory: left as it is."""
    wide = normal(4, 6)

    def f(x: Tensor) -> Tensor:
        return torch.as_strided(part(x), (2, 2), (6, 1), offset) * 1

    module = record(f, [wide])
    plain_views(module)
    module.recompile()
    assert torch.equal(module(wide), f(wide))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("write", [
    lambda zeros, part: aten.index_put(zeros, [None, torch.tensor([0, 2])], part[:, :2], True),
    lambda zeros, part: aten.slice_scatter(zeros, part[:, :2], 1, 0, 2),
    lambda zeros, part: aten.diagonal_scatter(zeros, part[0, :3]),
    lambda zeros, part: aten.index_add(zeros, 1, torch.tensor([2, 0, 1]), part),
    lambda zeros, part: aten.scatter(zeros, 1, torch.tensor([[0, 2]] * 4), part),
])  # fmt: skip
def test_writes_into_what_is_expanded(write: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Inductor alone lets rows overwrite each other (torch 2.13)."""
    part = normal(4, 3)
    module = record(lambda part: (write(torch.zeros(3, dtype=F64).expand(4, 3), part),), [part])
    expected = module(part)[0].clone()
    with torch.no_grad():
        (found,) = _compile.compiled(module, [part], "cpu")([part])
    assert torch.equal(found, expected)


def test_an_input_hides_no_step_of_its_name() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    step = graph.create_node("call_function", aten.neg.default, (x,), name="more")
    one = insert_input(x, "more")
    two = insert_input(one, "more_1")
    graph.output((step, one, two))
    given = tuple(torch.tensor(float(i)) for i in range(1, 4))
    assert GraphModule({}, graph)(*given) == (-given[0], *given[1:])


OWN = torch.library.Library("hograd_strided", "DEF")
OWN.define("product(Tensor[] factors) -> Tensor")
OWN.impl("product", lambda factors: factors[0] * factors[1], "CompositeExplicitAutograd")
torch.library.register_fake("hograd_strided::product", lambda factors: factors[0] * factors[1], lib=OWN)
torch.library.register_autograd(
    "hograd_strided::product",
    lambda ctx, g: [g * factor for factor in reversed(ctx.saved_tensors)],
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[0]),
    lib=OWN,
)


def solved(y: Tensor) -> Tensor:
    return torch.linalg.solve(torch.eye(6, dtype=y.dtype) * 4 + torch.outer(y, y), y).square().sum()


def of_ones_own(y: Tensor) -> Tensor:
    product: Tensor = torch.ops.hograd_strided.product([y.sin(), y.square()])
    return product.square().sum()


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("f", [solved, of_ones_own])
def test_an_operation_that_inductor_calls_by_name_costs_no_second_attempt(f: Callable[[Tensor], Tensor]) -> None:
    p = prepare(hvp, f, normal(6), preparation="compiled")
    assert p.preparation == "compiled", p.explain()
    assert "without" not in p.explain(), p.explain()
    assert close(p(normal(6, seed=1), normal(6)), hvp(f, normal(6, seed=1), normal(6)))


@pytest.mark.parametrize("d", [0, 1])
def test_slices_of_many_are_slices(d: int) -> None:
    """Vmap has an index for them, which costs more, and which inductor gets wrong among others (torch 2.13)."""

    def write(x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = aten.slice_scatter(x, y, d, 1, 6, 2)
        return result

    x, y = normal(2, 6, 6), normal(2, *((3, 6) if d == 0 else (6, 3)))
    module = clean(record(torch.func.vmap(write), (x, y), table("compiled")))
    assert [str(n.target) for n in module.graph.nodes if is_call(n)] == ["aten.slice_scatter.default"]
    assert torch.equal(module(x, y), torch.func.vmap(write)(x, y))


def test_what_counts_down_is_no_slice() -> None:
    given = normal(6), normal(3)
    module = clean(record(lambda x, y: torch.scatter(x, 0, torch.arange(4, 1, -1), y), given))
    assert torch.equal(module(*given), torch.scatter(given[0], 0, torch.tensor([4, 3, 2]), given[1]))


def test_slices_cost_no_index() -> None:
    p = prepare(hvp, pieces, normal(6), preparation="graph")
    assert dispatched(lambda: p(normal(6), normal(6))) <= 0.6 * dispatched(lambda: hvp(pieces, normal(6), normal(6)))
    assert not any(word in p.explain() for word in ("index", "as_strided", " copy.")), p.explain()


def test_a_place_in_the_memory_of_an_argument_is_not_traced() -> None:
    """The point of a later call may lie elsewhere in its memory than the one that was traced."""
    memory, v = normal(12), normal(7, seed=1)
    for f in (
        lambda x: x.as_strided((2, 2), (2, 1), 2).pow(3).sum(),
        lambda x: torch.as_strided_scatter(x.view(7, 1)[2:, 0], x[:2], (2,), (1,), 2).pow(3).sum(),
    ):
        p = prepare(hvp, f, memory[:7], preparation="graph")
        assert p.preparation == "eager"
        assert "a place in the memory of its argument" in str(p.reason)
        assert torch.equal(p(memory[1:8], v), hvp(f, memory[1:8], v))
    g = lambda x: x[1:].as_strided((2, 2), (2, 1)).pow(3).sum()  # noqa: E731
    p = prepare(hvp, g, memory[:7], preparation="graph")
    assert p.preparation == "graph"
    assert torch.equal(p(memory[1:8], v), hvp(g, memory[1:8], v))


def test_a_step_without_inputs_goes_before_one_that_gives_several_tensors() -> None:
    module = record(lambda x: torch.topk(x, 2)[0], [normal(4)])
    several = next(node for node in module.graph.nodes if is_call(node, aten.topk.default))
    assert value(insert(several, aten.full.default, [2], 1.0)).shape == (2,)
