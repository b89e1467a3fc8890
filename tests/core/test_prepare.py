"""Prepared kernels: right, guarded, and eager with a reason where no graph can stand for f."""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from core_fakes import F64, normal
from hograd_bench.metrics._allocations import trace
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import hograd_core as h
from hograd_core import UnsupportedError, VerificationError, prepare
from hograd_core.curvature import HessianOperator, extreme_eigenpairs
from hograd_core.prepare import _build, _inductor
from hograd_core.solvers import newton_cg

X, V = normal(8), normal(8, seed=1)
needs_compiler = pytest.mark.skipif(
    _inductor.unavailable("cpu") is not None, reason=f"nothing compiles here: {_inductor.unavailable('cpu')}"
)
COMPILING = [pytest.param("compiled", marks=[needs_compiler, pytest.mark.slow])]
EVERY = ["graph", *COMPILING]
every = pytest.mark.parametrize("preparation", EVERY)


class Counting(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def dispatched(call: Callable[[], object]) -> int:
    with Counting() as mode:
        call()
    return mode.calls


def network(dtype: torch.dtype = F64) -> Callable[[Tensor], Tensor]:
    weights = [normal(8, 8, seed=s, dtype=dtype) for s in (2, 3)]

    def f(x: Tensor) -> Tensor:
        for w in weights:
            x = (x @ w).tanh()
        return x.square().sum()

    return f


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9 if a.dtype == F64 else 1e-4, atol=1e-12 if a.dtype == F64 else 1e-5)


@every
def test_a_product_at_other_points_and_directions(preparation: str) -> None:
    f = network()
    p = prepare(h.hvp, f, X, preparation=preparation)
    assert (p.preparation, p.reason, p.traces) == (preparation, None, 1)
    for s in range(3):
        x, v = normal(8, seed=10 + s), normal(8, seed=20 + s)
        assert close(p(x, v), h.hvp(f, x, v))
    assert p.traces == 1
    assert p.seconds > 0


def test_a_graph_dispatches_at_most_half_of_what_eager_does() -> None:
    f = network()
    p = prepare(h.hvp, f, X, preparation="graph")
    assert 2 * dispatched(lambda: p(X, V)) <= dispatched(lambda: h.derivative_vector_product.unguarded(f, X, V))


@pytest.mark.parametrize(
    ("operator", "arguments", "how"),
    [
        (h.gradient, (), {}),
        (h.hessian, (), {}),
        (h.derivative_tensor, (), {"order": 3}),
        (h.derivative_vector_product, (V,), {"order": 3}),
        (h.directional_derivative, (V,), {"order": 2}),
        (h.hvp, (V,), {"method": "jvp_of_grad"}),
        (h.hvp, (V,), {"method": "vjp_of_grad"}),
        (h.hessian, (), {"method": "func_hessian"}),
        (h.hessian_diagonal, (), {}),
    ],
)
def test_other_operators_methods_and_orders(operator: Any, arguments: tuple[Tensor, ...], how: dict[str, Any]) -> None:
    f = network()
    p = prepare(operator, f, X, preparation="graph", **how)
    assert p.reason is None
    assert close(p(X + 0.1, *arguments), operator(f, X + 0.1, *arguments, **how))


@every
def test_further_arguments_are_inputs(preparation: str) -> None:
    w = normal(8, 3, seed=4)

    def f(x: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        return ((inputs * x) @ w - targets).tanh().square().mean()

    batches = [(normal(5, 8, seed=s), normal(5, 3, seed=s + 1)) for s in (30, 40)]
    p = prepare(h.hvp, f, X, args=batches[0], preparation=preparation)
    for batch in batches:
        assert close(p(X, V, args=batch), h.hvp(lambda x, b=batch: f(x, *b), X, V))
    assert p.traces == 1
    short = [t[:2] for t in batches[1]]
    assert close(p(X, V, args=short), h.hvp(lambda x: f(x, *short), X, V))
    assert p.traces == 2


@every
def test_updates_of_tensors_that_f_refers_to_are_seen(preparation: str) -> None:
    w = nn.Parameter(normal(8, 8, seed=5))
    f = lambda x: (x @ w).tanh().square().sum()  # noqa: E731
    p = prepare(h.hvp, f, X, preparation=preparation)
    with torch.no_grad():
        w.mul_(0.5)
    assert close(p(X, V), h.hvp(f, X, V))
    w.data = normal(8, 8, seed=6)
    assert close(p(X, V), h.hvp(f, X, V))
    assert p.traces == 1
    w = nn.Parameter(normal(8, 8, seed=7))  # another tensor
    assert close(p(X, V), h.hvp(f, X, V))
    assert p.traces == 2
    w.data = normal(8, 3, seed=8)
    assert close(p(X, V), h.hvp(f, X, V))
    assert p.traces == 3


@every
def test_matrices_that_are_parts_of_one_vector(preparation: str) -> None:
    inputs = normal(2, 4, seed=20)

    def f(x: Tensor) -> Tensor:
        a, b, c, d = x.split([2, 16, 3, 15])
        return (((inputs * c[0]) @ b.view(4, 4)).tanh() @ torch.cat([d, a[:1]]).view(4, 4).t()).tanh().square().sum()

    x, v = normal(36, seed=21), normal(36, seed=22)
    p = prepare(h.hvp, f, x, preparation=preparation)
    assert p.reason is None
    assert close(p(x, v), h.hvp(f, x, v))
    assert close(p.bind(x)(v), h.hvp(f, x, v))


@every
def test_numbers_may_select_but_masks_may_not(preparation: str) -> None:
    f = lambda x: x[torch.tensor([1, 1, 5, 0])].pow(3).sum() * x.sum()  # noqa: E731
    p = prepare(h.hvp, f, X, preparation=preparation)
    assert p.reason is None
    assert close(p(X, V), h.hvp(f, X, V))


def test_the_point_that_f_refers_to_as_well_is_no_input() -> None:
    x = X.clone()
    f = lambda p: (p * x).sum() ** 3  # noqa: E731
    p = prepare(h.hvp, f, x, preparation="graph")
    assert close(p(V, V), h.hvp(f, V, V))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8, dtype=F64)
        self.scale = 2.0
        self.table = {"shift": 0.5}

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x).tanh() * self.scale + self.table["shift"]
        return y if self.training else y * 3


def _train(module: Scaled) -> None:
    module.eval()


def _scale(module: Scaled) -> None:
    module.scale = 5.0


def _table(module: Scaled) -> None:
    module.table["shift"] = 0.25


def _weight(module: Scaled) -> None:
    module.linear.weight = nn.Parameter(normal(8, 8, seed=9))


def _hook(module: Scaled) -> None:
    module.linear.register_forward_hook(lambda *a: a[2] * 7)


@pytest.mark.parametrize("change", [_train, _scale, _table, _weight, _hook])
def test_changes_of_what_f_refers_to_make_a_new_trace(change: Callable[[Scaled], None]) -> None:
    module = Scaled()
    f = lambda x: module(x).square().sum() + x.pow(4).sum()  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph")
    b = p.bind(X)
    b(V)
    change(module)
    expected = h.hvp(f, X, V)
    assert close(b(V), expected)
    assert close(p(X, V), expected)
    assert p.traces == 2


def test_a_variable_or_a_global_name_that_changes() -> None:
    power = 3
    f = lambda x: (x**power).sum() * SETTINGS[0]  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph")
    power = 4
    assert close(p(X, V), h.hvp(f, X, V))
    SETTINGS[0] = 3.0
    assert close(p(X, V), h.hvp(f, X, V))
    assert p.traces == 3


SETTINGS = [2.0]


def test_what_cannot_be_seen_is_found_by_checking() -> None:
    hidden = iter([1.0] * 8 + [2.0] * 100)  # as many are taken before the first call
    f = lambda x: x.pow(4).sum() * next(hidden)  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph", check_every=2)
    assert p.reason is None
    with pytest.raises(VerificationError, match="last 2 calls"):
        deque((p(X, V) for _ in range(10)), maxlen=0)


def _bn() -> Callable[[Tensor], Tensor]:
    norm = nn.BatchNorm1d(2, dtype=F64)
    return lambda x: norm(x.view(4, 2)).pow(3).sum()


def _lstm() -> Callable[[Tensor], Tensor]:
    lstm = nn.LSTM(2, 3, dtype=F64)
    return lambda x: lstm(x.view(2, 2, 2))[0].square().sum()


def _read_of_closure() -> Callable[[Tensor], Tensor]:
    w = torch.ones(3, dtype=F64)
    return lambda x: x.pow(3).sum() if w.sum() > 0 else x.pow(4).sum()


@pytest.mark.parametrize(
    ("f", "reason"),
    [
        (lambda x: nn.functional.dropout(x, 0.5).pow(3).sum() * 0 + x.pow(3).sum(), "random"),
        (lambda x: x.pow(3).sum() if x.sum() > -99 else x.sum(), "reads values"),
        (lambda x: x.pow(3).sum() * x[0].detach().item(), "reads values"),
        (lambda x: x.pow(3).sum() * x.tolist()[0], "reads values"),
        (lambda x: x[x > 0].pow(3).sum(), "shape out of values"),
        (_bn(), "writes into"),
        (_read_of_closure(), "reads values"),
        (lambda x: (x - 100).sqrt().sum(), "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::hograd_core.NotFiniteWarning")
def test_eager_with_a_reason(f: Callable[[Tensor], Tensor], reason: str) -> None:
    p = prepare(h.hvp, f, X, preparation="graph")
    assert p.preparation == "eager"
    assert reason in (p.reason or "")
    assert reason in p.explain()
    assert torch.equal(p(X, V).nan_to_num(), h.hvp(f, X, V).nan_to_num())


def test_no_compiler_falls_back_to_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inductor, "unavailable", lambda device: "no C++ compiler")
    p = prepare(h.hvp, network(), X, preparation="compiled")
    assert p.preparation == "graph"
    assert p.reason == "compiled: no C++ compiler"


def test_a_cuda_graph_needs_a_gpu() -> None:
    p = prepare(h.hvp, network(), X, preparation="cudagraph")
    assert p.preparation == "graph"
    assert "x is on the cpu" in (p.reason or "")


def test_a_wrong_pass_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(module: Any, **_: Any) -> Any:
        for node in module.graph.nodes:
            if node.target is torch.ops.aten.tanh.default:
                node.target = torch.ops.aten.sin.default
        return module

    monkeypatch.setattr(_build, "merge_products", wrong)
    f = network()
    p = prepare(h.hvp, f, X, preparation="graph")
    assert p.preparation == "eager"
    assert "differs from the eager method" in (p.reason or "")
    assert torch.equal(p(X, V), h.hvp(f, X, V))


def test_hazards_apply() -> None:
    f = lambda x: torch.linalg.det(x.view(2, 4) @ x.view(4, 2) + 2 * torch.eye(2, dtype=F64))  # noqa: E731
    with pytest.raises(UnsupportedError, match="wrong derivative"):
        prepare(h.hvp, f, X, method="grad_of_jvp", preparation="graph")
    p = prepare(h.hvp, f, X, method="grad_of_jvp", repair=True, preparation="graph")
    assert close(p(X, V), h.hvp(f, X, V))


def test_inside_a_larger_derivative_the_eager_method_runs() -> None:
    p = prepare(h.hvp, lambda x: x.pow(4).sum(), X, preparation="graph")
    expected = h.gradient(lambda x: h.hvp(lambda y: y.pow(4).sum(), x, V).sum(), X)
    assert close(h.gradient(lambda x: p(x, V).sum(), X), expected)
    assert close(torch.func.grad(lambda x: p(x, V).sum())(X), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_of_the_caller(mode: Any) -> None:
    f = network()
    p = prepare(h.hvp, f, X, preparation="graph")
    b = p.bind(X)
    with mode():
        assert not p(X.clone(), V).is_inference()
        assert close(p(X, V), h.hvp(f, X, V))
        assert close(b(V.clone()), h.hvp(f, X, V))
    assert close(p(X.clone().requires_grad_(), V), h.hvp(f, X, V))
    assert not p(X.clone().requires_grad_(), V).requires_grad


def test_results_are_memory_of_their_own() -> None:
    p = prepare(h.hvp, lambda x: 0.5 * x.square().sum(), X, preparation="graph")
    result = p(X, V)
    assert result.data_ptr() != V.data_ptr()
    result.zero_()
    assert V.abs().sum() > 0


def test_views_that_are_not_contiguous() -> None:
    f = network()
    p = prepare(h.hvp, f, X, preparation="graph")
    v = normal(8, 2, seed=3)[:, 0]
    assert close(p(X, v), h.hvp(f, X, v))


@every
def test_bound_products(preparation: str) -> None:
    f = network()
    p = prepare(h.hvp, f, X, preparation=preparation)
    x = X.clone()
    b = p.bind(x)
    directions = normal(5, 8, seed=12)
    assert close(b(V), h.hvp(f, x, V))
    whole = b(directions, in_dims=0)
    assert close(whole, torch.stack([h.hvp(f, x, v) for v in directions]))
    assert not any(binding is None for binding in b.bindings.values())
    with torch.no_grad():
        x.mul_(0.5)
    assert close(b(V), h.hvp(f, x, V))
    assert close(b(directions, in_dims=0), torch.stack([h.hvp(f, x, v) for v in directions]))
    assert b(directions[:0], in_dims=0).shape == (0, 8)


SCALARS = 64
"""Bytes that operations take for numbers among their arguments, which no graph tells."""


def sized(n: int) -> Callable[[Tensor], Tensor]:
    a, b = normal(n, n, seed=2), normal(n, n, seed=3)
    return lambda x: ((x @ a).tanh() @ b).tanh().square().sum()


def peak(operator: Any, n: int, **how: Any) -> int:
    found = prepare(operator, sized(n), normal(n), preparation="graph", **how).peak_bytes
    assert found is not None
    return found


def test_peak_bytes_obey_an_exact_law() -> None:
    small = [peak(h.hvp, n) for n in (8, 16, 32)]
    assert small[2] - small[1] == 2 * (small[1] - small[0])
    assert peak(h.hvp, 128) == small[0] + 15 * (small[1] - small[0])
    # a n² + b n through two sizes foretells the third, and one that is computed by blocks.
    at = {n: peak(h.hessian, n) for n in (8, 16, 32, 256)}
    quadratic = (at[16] / 16 - at[8] / 8) / 8
    linear = at[8] / 8 - 8 * quadratic
    assert [n * (quadratic * n + linear) for n in (32, 256)] == [at[32], at[256]]


@pytest.mark.parametrize(
    ("how", "most"), [({}, 3.0), ({"memory": int(1.5 * 8 * 256**2)}, 1.5), ({"chunk_size": 16}, 1.2)]
)
def test_a_hessian_takes_little_beside_itself_by_the_allocators_count(how: dict[str, Any], most: float) -> None:
    f, x = sized(256), normal(256)
    p = prepare(h.hessian, f, x, preparation="graph", **how)
    assert p.peak_bytes is not None
    assert p.peak_bytes <= most * 8 * 256**2
    assert close(p(x), h.hessian(f, x))
    assert 0 <= trace(lambda: p(x)).peak_bytes - p.peak_bytes <= SCALARS


def test_products_take_what_is_foretold() -> None:
    p = prepare(h.hvp, sized(64), normal(64), preparation="graph")
    x, v = normal(64), normal(64, seed=1)
    assert p.peak_bytes is not None
    assert 0 <= trace(lambda: p(x, v)).peak_bytes - p.peak_bytes <= SCALARS


def test_what_is_written_over_is_the_graphs_own() -> None:
    w = normal(8, 8, seed=4)
    f = lambda x: ((x @ w).exp() * x + w[0]).square().sum() + (w.t() @ x).cos().sum()  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph")
    b = p.bind(X)
    before = [t.clone() for t in (X, V, w)]
    first, bound = p(X, V), b(V)
    assert torch.equal(p(X, V), first)
    assert torch.equal(b(V), bound)
    assert all(torch.equal(t, then) for t, then in zip((X, V, w), before, strict=True))
    assert any(name.endswith("_.Tensor") for name in p.operations or {})


def test_a_bound_product_does_less_than_a_whole_one() -> None:
    p = prepare(h.hvp, network(), X, preparation="graph")
    b = p.bind(X)
    b(V)
    binding = b.bindings[None]
    assert binding is not None
    assert dispatched(lambda: binding.run(V)) < dispatched(lambda: p(X, V))


def test_bound_products_see_updated_weights() -> None:
    w = normal(8, 8, seed=5)
    f = lambda x: (x @ w).tanh().square().sum()  # noqa: E731
    b = prepare(h.hvp, f, X, preparation="graph").bind(X)
    b(V)
    w.mul_(0.5)
    assert close(b(V), h.hvp(f, X, V))
    w.data = normal(8, 8, seed=6)
    assert close(b(V), h.hvp(f, X, V))
    w.data = w.data.t()  # the same memory
    assert close(b(V), h.hvp(f, X, V))


def test_refusals() -> None:
    f = network()
    with pytest.raises(ValueError, match="preparation: got 'fast', expected one of auto, eager, graph"):
        prepare(h.hvp, f, X, preparation="fast")
    with pytest.raises(ValueError, match="check_every: got 0"):
        prepare(h.hvp, f, X, check_every=0)
    with pytest.raises(TypeError, match="operator: newton_cg_step is not"):
        prepare(h.newton_cg_step, f, X)
    with pytest.raises(TypeError, match=r"args\[0\]: got int"):
        prepare(h.hvp, f, X, args=(3,), preparation="graph")  # type: ignore[arg-type]
    p = prepare(h.hvp, f, X, preparation="graph")
    with pytest.raises(ValueError, match="v: got shape"):
        p(X, V[:3])
    with pytest.raises(TypeError, match="x, v: got 1"):
        p(X)
    with pytest.raises(TypeError, match="takes no direction"):
        prepare(h.gradient, f, X, preparation="graph").bind(X)
    with pytest.raises(ValueError, match="in_dims: got 1"):
        p.bind(X)(V, in_dims=1)
    with pytest.raises(ValueError, match=r"V: got \(8,\)"):
        p.bind(X)(V, in_dims=0)
    b = p.bind(X)
    b(V)
    p.close()
    for call in (lambda: p(X, V), lambda: b(V)):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_errors_of_f_are_its_own() -> None:
    with pytest.raises(ValueError, match="returned shape"):
        prepare(h.hvp, lambda x: x * 2, X)


def test_threads() -> None:
    f = network()
    p = prepare(h.hvp, f, X, preparation="graph")
    b = p.bind(X)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for i in range(30):
            x, v = normal(8, seed=seed + i), normal(8, seed=seed + i + 1)
            if not (close(p(x, v), h.hvp(f, x, v)) and close(b(v), h.hvp(f, X, v))):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(100 * i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_nothing_grows_over_many_calls() -> None:
    p = prepare(h.hvp, network(), X, preparation="graph")
    b = p.bind(X)
    p(X, V), b(V)

    def alive() -> int:
        gc.collect()
        return len(gc.get_objects())

    for _ in range(10):
        p(X, V), b(V)
    before = alive()
    for _ in range(5_000):
        p(X, V), b(V)
    assert alive() - before < 50


def test_solvers_use_bound_products() -> None:
    f = lambda x: network()(x) + x.pow(4).sum()  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph")
    for x in (X, X + 0.1):
        step = newton_cg(f, x, damping=1.0, preparation=p).step
        assert torch.allclose(step, newton_cg(f, x, damping=1.0).step, rtol=1e-5)
    assert p.traces == 1
    with HessianOperator(f, X, preparation="graph", damping=0.5) as operator:
        assert close(operator @ V, h.hvp(f, X, V) + 0.5 * V)
        assert torch.allclose(
            extreme_eigenpairs(operator).values, extreme_eigenpairs(HessianOperator(f, X, damping=0.5)).values
        )
    with pytest.raises(RuntimeError, match="after close"):
        operator @ V
    with pytest.raises(ValueError, match="preparation: got a kernel of another function"):
        HessianOperator(network(), X, preparation=p)
    inside = lambda y: (HessianOperator(f, y, preparation=p) @ V).sum()  # noqa: E731
    assert close(h.gradient(inside, X), h.gradient(lambda y: h.hvp(f, y, V).sum(), X))
