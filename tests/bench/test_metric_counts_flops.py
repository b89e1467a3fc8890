"""FLOP formulas and bytes moved against hand counts, torch's own counter and the problems' own counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hograd_bench import problems
from hograd_bench.metrics._dispatch import _bytes, count
from studies.validation.operations import GRADIENT_BOUND, SPEC, operations
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

M, K, N = 3, 5, 7
a, b = torch.rand(M, K), torch.rand(K, N)
v, w = torch.rand(K), torch.rand(K)
x = torch.rand(4, 6) + 0.5
spd = torch.eye(6) * 3
row, column, square, batch = torch.rand(N), torch.rand(M), torch.rand(K, K), torch.rand(1, M, N)
labels = torch.tensor([0, 2, 1, 5])

# call -> (flops, additions to a zero accumulator), counted by hand.
HAND: dict[str, tuple[Callable[[], Any], int, int]] = {
    "mm": (lambda: a @ b, 2 * M * K * N, M * N),
    "bmm": (lambda: torch.bmm(a.expand(2, M, K), b.expand(2, K, N)), 2 * 2 * M * K * N, 2 * M * N),
    "mv": (lambda: a @ v, 2 * M * K, M),
    "dot": (lambda: v @ w, 2 * K, 1),
    "outer": (lambda: torch.outer(v, w), K * K, 0),
    "addmm": (lambda: torch.addmm(row, a, b), 2 * M * K * N + M * N, M * N),
    "addmm scaled": (lambda: torch.addmm(row, a, b, beta=2, alpha=3), 2 * M * K * N + 3 * M * N, M * N),
    "addmm beta 0": (lambda: torch.addmm(row, a, b, beta=0), 2 * M * K * N, M * N),
    "addmv": (lambda: torch.addmv(column, a, v), 2 * M * K + M, M),
    "addr": (lambda: torch.addr(square, v, w), 2 * K * K, 0),
    "baddbmm": (
        lambda: torch.baddbmm(batch, a[None], b[None]), 2 * M * K * N + M * N, M * N
    ),
    "einsum": (lambda: torch.einsum("ij,jk->ik", a, b), 2 * M * K * N, M * N),
    "add": (lambda: x + x, 24, 0),
    "add alpha": (lambda: torch.add(x, x, alpha=2), 48, 0),
    "add in place": (lambda: x.clone().add_(x), 24, 0),
    "add out": (lambda: torch.add(x, x, out=torch.empty(4, 6)), 24, 0),
    "rsub": (lambda: 1 - x, 24, 0),
    "mul broadcast": (lambda: x * x[0], 24, 0),
    "div": (lambda: x / 3, 24, 0),
    "addcmul": (lambda: torch.addcmul(x, x, x), 48, 0),
    "addcmul scaled": (lambda: torch.addcmul(x, x, x, value=2), 72, 0),
    "lerp": (lambda: torch.lerp(x, x, 0.3), 72, 0),
    "pow 2": (lambda: x**2, 24, 0),
    "pow 3": (lambda: x**3, 48, 0),
    "pow 2.5": (lambda: x**2.5, 24, 0),
    "pow 1": (lambda: x**1, 0, 0),
    "pow tensor": (lambda: x**x, 24, 0),
    "sqrt": (lambda: x.sqrt(), 24, 0),
    "rsqrt": (lambda: x.rsqrt(), 48, 0),
    "sigmoid": (lambda: x.sigmoid(), 72, 0),
    "tanh": (lambda: x.tanh(), 24, 0),
    "relu": (lambda: x.relu(), 24, 0),
    "silu": (lambda: F.silu(x), 96, 0),
    "softplus": (lambda: F.softplus(x), 48, 0),
    "softplus beta": (lambda: F.softplus(x, beta=2), 96, 0),
    "gelu": (lambda: F.gelu(x), 5 * 24, 0),
    "gelu tanh": (lambda: F.gelu(x, approximate="tanh"), 9 * 24, 0),
    "sum": (lambda: x.sum(), 24, 1),
    "sum rows": (lambda: x.sum(1), 24, 4),
    "mean": (lambda: x.mean(), 25, 1),
    "mean rows": (lambda: x.mean(1), 28, 4),
    "amax": (lambda: x.amax(0), 24, 6),
    "var": (lambda: x.var(1), 4 * 24 + 2 * 4, 8),
    "norm": (lambda: torch.linalg.vector_norm(x), 49, 1),
    "norm 1": (lambda: torch.linalg.vector_norm(x, 1), 48, 1),
    "norm inf": (lambda: torch.linalg.vector_norm(x, float("inf")), 48, 1),
    "logsumexp": (lambda: x.logsumexp(1), 4 * 24 + 2 * 4, 8),
    "softmax": (lambda: x.softmax(1), 5 * 24, 8),
    "softmax columns": (lambda: x.softmax(0), 5 * 24, 12),
    "log_softmax": (lambda: x.log_softmax(1), 5 * 24 + 4, 8),
    "mse": (lambda: F.mse_loss(x, x), 3 * 24 + 1, 1),
    "mse sum": (lambda: F.mse_loss(x, x, reduction="sum"), 3 * 24, 1),
    "mse none": (lambda: F.mse_loss(x, x, reduction="none"), 2 * 24, 0),
    "nll": (lambda: F.nll_loss(x, labels), 4 + 1, 1),
    "nll sum": (lambda: F.nll_loss(x, labels, reduction="sum"), 4, 1),
    "cumsum": (lambda: x.cumsum(0), 24, 24),
    "index_add": (lambda: torch.zeros(6, 6).index_add(0, labels, x), 24, 0),
    "index_put accumulate": (lambda: torch.zeros(6).index_put((labels,), v[:4], accumulate=True), 4, 0),
    "index_put": (lambda: torch.zeros(6).index_put((labels,), v[:4]), 0, 0),
    "cholesky": (lambda: torch.linalg.cholesky(spd), 6**3 // 3, 0),
    "solve": (lambda: torch.linalg.solve(spd, torch.ones(6)), 2 * 6**3 // 3 + 2 * 36, 0),
    "triangular": (lambda: torch.linalg.solve_triangular(spd, torch.ones(6, 2), upper=True), 2 * 36, 0),
    "conv2d bias": (
        lambda: F.conv2d(torch.ones(2, 3, 5, 5), torch.ones(4, 3, 3, 3), torch.ones(4)),
        2 * (2 * 4 * 9) * 27 + 2 * 4 * 9, 2 * 4 * 9,
    ),
    "where": (lambda: torch.where(x > 1, x, x), 0, 0),
    "integers": (lambda: labels + labels * labels, 0, 0),
    "views": (lambda: x.T.reshape(6, 4)[1:].expand(2, -1, -1), 0, 0),
    "cat and copies": (lambda: torch.cat([x, x.double().float().clone()]), 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", HAND)
def test_formula_against_hand_count(name: str) -> None:
    call, flops, accumulators = HAND[name]
    tally = count(call)
    assert not tally.uncovered
    assert tally.coverage == 1.0
    # "cumsum" keeps a running sum: its accumulators are its own affair.
    assert tally.flops == flops
    if name != "cumsum":
        assert tally.accumulators == accumulators


def gradient_of(f: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Any]:
    leaf = x.clone().requires_grad_()
    return lambda: torch.autograd.grad(f(leaf), leaf)


# What the backward adds to f, in operations counted by hand; n and T as in SPEC.
n, T = SPEC.n, SPEC.depth
BACKWARD = {
    "linear": n,  # g b
    "quadratic": (n + 1 + n + n + n * (2 * n - 1)) + 2 * n,  # g b; g/2; dot's two; Aᵀ; two sums of contributions
    "separable_exp": 2 * n,  # by a, by exp
    "sin_chain": 2 * n * T,  # cos, product
    "tanh_chain": 3 * n * T,  # g (1 - y²)
    "mlp": 2 * n + T * (3 * n + n * (2 * n - 1)),  # 2 y g; then tanh and Wᵀ for each layer
    "log_sum_exp": 3 * n,  # g exp(x - f)
    "powers": 3 * n,  # g p x^(p-1)
    "rational": 8 * n,  # g/d; -g (x/d)/d; 2 x g; a sum of contributions
    "rosenbrock": 9 * (n - 1) + (n - 1) + n,
    # monomials: x³: 4; x y²: 2 + 2; x² y² z: 5 products, 2 by squares each twice; 4 sums of contributions
    "polynomial": 18 * n,
}


@pytest.mark.parametrize("name", sorted(problems.problems()))
def test_f_against_the_problems_own_count(name: str) -> None:
    record = problems.get(name)
    if record.operations is None:
        pytest.skip("nobody has counted this f by hand")
    for spec in (problems.Spec(3, 1, 2), SPEC):
        at = record.instance(spec)
        tally = count(lambda at=at: at.f(at.x))  # type: ignore[misc]
        assert not tally.uncovered
        assert tally.flops - tally.accumulators == sum(record.operations(spec).values())


@pytest.mark.parametrize("name", sorted(BACKWARD))
def test_gradient_against_hand_count(name: str) -> None:
    found = operations(name)
    assert found.covered
    assert found.gradient - found.f == BACKWARD[name]


@pytest.mark.parametrize("name", sorted(set(problems.problems()) - {"sdpa_attention_loss"}))
def test_griewank_walther_bound_on_the_gradient(name: str) -> None:
    assert 1 < operations(name).gradient_ratio <= GRADIENT_BOUND


@pytest.mark.parametrize("name", ["mlp_loss", "conv_loss", "attention_loss", "matrix_factorization"])
def test_products_agree_with_torch(name: str) -> None:
    """On matrix products and convolutions, forward and backward, the two counters are one."""
    at = problems.get(name).instance(SPEC)
    call = gradient_of(at.f, at.x)
    shared = ("mm", "bmm", "convolution", "convolution_backward")
    with FlopCounterMode(display=False) as torchs:
        call()
    theirs = {str(op).removeprefix("aten."): n for op, n in torchs.get_flop_counts()["Global"].items()}
    ours = {op.removeprefix("aten."): n for op, n in count(call).flops_by_op.items()}
    compared = [op for op in shared if op in theirs]
    assert compared
    biases = {"convolution", "convolution_backward"}  # torch leaves the bias out
    for op in compared:
        if op in biases:
            assert 0 <= ours[op] - theirs[op] < 0.1 * theirs[op]
        else:
            assert ours[op] == theirs[op]


def test_what_has_no_formula_is_uncovered_not_zero() -> None:
    tally = count(lambda: torch.linalg.eigvalsh(spd))
    assert tally.uncovered == {"aten._linalg_eigh": 1}
    assert tally.coverage == 1 - 1 / tally.calls
    assert count(lambda: (x + 0j) * 2j).uncovered["aten.mul.Tensor"] == 1


def test_an_operator_of_another_library_is_uncovered() -> None:
    library = torch.library.Library("hograd_test_flops", "FRAGMENT")
    library.define("add(Tensor x) -> Tensor")
    library.impl("add", lambda x: x.clone(), "CompositeExplicitAutograd")
    tally = count(lambda: torch.ops.hograd_test_flops.add(x))
    assert "hograd_test_flops.add" in tally.uncovered


def test_vmap_is_counted_at_the_bottom() -> None:
    rows = torch.rand(8, K)
    batched = count(lambda: torch.vmap(lambda r: a @ r)(rows))
    assert batched.flops == count(lambda: [a @ r for r in rows]).flops == 8 * 2 * M * K
    assert batched.calls < 8


def test_zero_tangents_are_counted_and_take_no_bytes() -> None:
    p = torch.ones(1000)
    both = count(lambda: torch.func.jvp(torch.mul, (p, p), (p, p)))
    one = count(lambda: torch.func.jvp(lambda p_: (p_ * p).sin(), (p,), (p,)))
    assert (both.zero_tensors, one.zero_tensors > 0) == (0, True)
    zero = torch._efficientzerotensor(1000)
    assert count(lambda: zero.detach()).moved_bytes == 0
    assert _bytes(zero) == 0
    assert _bytes((zero, [p, None, 3])) == 4000


@pytest.mark.parametrize("name", ["mul.Scalar", "add.Scalar"])
def test_operators_that_fall_through_zero_tangents(name: str) -> None:
    """NOTE [zero tangents]: called plainly from a mode, these would read a null pointer."""
    packet, overload = name.split(".")
    func = getattr(getattr(torch.ops.aten, packet), overload)
    zero = torch._efficientzerotensor(7)
    found: list[Tensor] = []
    count(lambda: found.append(func(zero, 2.0)))
    expected = func(torch.zeros(7), 2.0)
    assert torch.equal(found[0] + torch.zeros(7), expected)


class Doubled(Tensor):
    """A tensor that answers every operator by running it and doubling the result."""

    inner: Tensor

    @staticmethod
    def wrap(inner: Tensor) -> Doubled:
        made: Doubled = torch.Tensor._make_subclass(Doubled, inner)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        opened = [a.inner if isinstance(a, Doubled) else a for a in args]
        return Doubled.wrap(func(*opened, **(kwargs or {})) * 2)


def test_a_subclass_is_counted_by_what_it_runs() -> None:
    tally = count(lambda: Doubled.wrap(x).sin())
    assert tally.by_op["aten.sin"] == tally.by_op["aten.mul.Tensor"] == 1
    assert tally.flops == 2 * 24


E4 = 24 * 4
# call -> bytes read and written, by hand.
MOVED: dict[str, tuple[Callable[[], Any], int]] = {
    "add": (lambda: torch.add(x, x), 3 * E4),
    "add in place": (lambda: x.add_(0 * x[0, 0]), 4 + 4 + E4 + 4 + E4),
    "broadcast reads once": (lambda: torch.add(x, x[0].expand(4, 6)), 2 * E4 + 24),
    "view": (lambda: x.T[1:].view(5, 2, 2), 0),
    "reshape that copies": (lambda: x.T[1:].flatten(), 2 * E4 * 5 // 6),
    "empty": (lambda: torch.empty(100), 0),
    "zeros": (lambda: torch.zeros(100), 400),
    "fill": (lambda: torch.empty(100).fill_(1.0), 400),
    "copy": (lambda: torch.empty(4, 6).copy_(x), 2 * E4),
    "out": (lambda: torch.neg(x, out=torch.empty(4, 6)), 2 * E4),
    "cat": (lambda: torch.cat([x, x]), 4 * E4),
    "mm": (lambda: a @ b, 4 * (M * K + K * N + M * N)),
    "sum": (lambda: x.sum(), E4 + 4),
    "index": (lambda: torch.rand(50, 6).index_select(0, labels), 50 * 24 + 4 * 24 + 4 * 24 + 4 * 8),
    "max with indices": (lambda: x.max(0), E4 + 6 * 4 + 6 * 8),
}


@pytest.mark.parametrize("name", MOVED)
def test_bytes_moved_against_hand_count(name: str) -> None:
    call, expected = MOVED[name]
    assert count(call).moved_bytes == expected
