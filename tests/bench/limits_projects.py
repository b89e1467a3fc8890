"""Tests of somebody else's, as text: what they limit, and what of that must fail."""

# What `pip install hograd pytest` does not bring.
WITHOUT_EXTRA = """
import sys
for name in ("numpy", "pandas", "scipy", "matplotlib", "seaborn", "typer", "rich", "psutil", "pyarrow", "jinja2",
             "pytest_benchmark"):
    sys.modules[name] = None
"""

LAZY = """
import sys

def test_nothing_was_imported():
    assert "hograd_bench.limits.plugin" in sys.modules
    assert not {"torch", "hograd_core", "numpy", "pandas"} & {n for n, m in sys.modules.items() if m is not None}
"""

FUNCTIONS = """
import pytest
import torch

def f(x):
    return (x.sin() ** 2).sum()

def hvp(f, x, v):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(f(x), x, create_graph=True)
    return torch.autograd.grad(g, x, v)[0]
"""

LIMITS = (
    FUNCTIONS
    + """
import unittest

kept = []
X = torch.linspace(0, 1, 1000)

class TestWithin:
    pytestmark = pytest.mark.hograd(peak="1 B", leaks=0)

    @pytest.mark.hograd(peak="30 KiB", ops=2.5)
    def test_nearest_mark_holds(self, hograd):
        result = hograd(hvp, f, X, v=X)
        torch.testing.assert_close(result, 2 * (2 * X).cos() * X)
        assert 20_000 < hograd.figures.peak_bytes <= 30 * 1024
        assert hograd.figures.retained_bytes == 0

@pytest.mark.hograd(peak="20 KiB")
def test_peak(hograd):
    hograd(hvp, f, X, X)

@pytest.mark.hograd(ops=2)
def test_ops(hograd):
    hograd(hvp, f, X, X)

@pytest.mark.hograd(leaks="1 KiB")
def test_leaks(hograd):
    hograd(lambda: kept.append(hvp(f, X, X)))

@pytest.mark.hograd(ops=1)
def test_a_gradient_of_a_module_is_one(hograd):
    model, data = torch.nn.Linear(3, 1), torch.ones(5, 3)
    loss = lambda m, d: m(d).square().mean()
    def step(m, d):
        return torch.autograd.grad(loss(m, d), list(m.parameters()), allow_unused=True, materialize_grads=True)
    gradients = hograd.of(loss, model, data)(step, model, data)
    assert [g.shape for g in gradients] == [p.shape for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())

@pytest.mark.hograd(ops=1)
def test_of_a_structure(hograd):
    x = {"a": X, "b": [X]}
    hograd.of(lambda t: f(t["a"]) + f(t["b"][0]), x)(lambda: 0)

@pytest.mark.hograd(ops=1)
def test_no_unit(hograd):
    hograd(lambda x: x.sin(), X)

@pytest.mark.hograd(peak="1 MiB")
def test_random_numbers(hograd):
    torch.manual_seed(3)
    expected = [torch.rand(2) for _ in range(2)]
    torch.manual_seed(3)
    drawn = []
    first = hograd(lambda: drawn.append(torch.rand(2)) or drawn[-1])
    assert torch.equal(first, expected[0]) and torch.equal(torch.rand(2), expected[1])
    assert len(drawn) == 3 and all(torch.equal(d, first) for d in drawn)

@pytest.mark.hograd(peak=0)
def test_not_called(hograd):
    pass

@pytest.mark.hograd(peak=0)
def test_not_taken():
    pass

@pytest.mark.hograd(pek=1)
def test_unknown_limit(hograd):
    hograd(f, X)

@pytest.mark.hograd(peak="much")
def test_no_size(hograd):
    hograd(f, X)

@pytest.mark.hograd
def test_no_limit(hograd):
    hograd(f, X)

@pytest.mark.hograd(peak="1 KiB")
def test_coroutine(hograd):
    async def later(x):
        return f(x)
    hograd(later, X)

@pytest.mark.hograd(peak="1 KiB")
def test_generator(hograd):
    def parts(x):
        yield f(x)
    hograd(parts, X)

def boom(x):
    raise ZeroDivisionError("theirs")

@pytest.mark.hograd(peak=0)
def test_raises(hograd):
    hograd(boom, X)

@pytest.mark.hograd(peak=0)
def test_only_raises(hograd):
    with pytest.raises(ZeroDivisionError):
        hograd(boom, X)

@pytest.mark.hograd(peak=0)
@pytest.mark.xfail(strict=True)
def test_expected_to_be_over(hograd):
    hograd(hvp, f, X, X)

@pytest.fixture
def through(hograd):
    return lambda: hograd(hvp, f, X, X)

@pytest.mark.hograd(peak="30 KiB")
def test_through_a_fixture(through):
    through()

@pytest.mark.hograd(ops=1)
def test_without_gradients(hograd):
    with torch.no_grad():
        hograd(f, X)

class TestCase(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def take(self, hograd):
        self.hograd = hograd

    @pytest.mark.hograd(peak="30 KiB")
    def test_of_unittest(self):
        self.hograd(hvp, f, X, X)

@pytest.mark.hograd(peak=0)
def test_skipped(hograd):
    pytest.skip("for a reason")

@pytest.mark.hograd(time_gradients=4)
def test_time(hograd):
    hograd(hvp, f, X, X)

def test_agree(hograd):
    expected = hvp(f, X, X)
    assert torch.equal(hograd.agree([hvp, lambda f, x, v: hvp(f, x, v) * (1 + 1e-6)], f, X, X, to=1e-5), expected)

def wrong(f, x, v):
    return hvp(f, x, v) + 0.5 * (x == 1)

def test_disagree(hograd):
    hograd.agree([hvp, hvp, wrong], f, X, X, to=1e-6)

def test_shapes(hograd):
    hograd.agree([lambda: (X, 1.0), lambda: (X[1:], 1.0)], to=1)

def test_structures(hograd):
    hograd.agree([lambda: (X, 1.0), lambda: [X, 1.0]], to=1)

def test_not_finite(hograd):
    hograd.agree([lambda: X.log(), lambda: -X.log()], to=10)
"""
)

GROWTH = (
    FUNCTIONS
    + """
def hessian(f, x):
    return torch.stack([hvp(f, x, e) for e in torch.eye(len(x), dtype=x.dtype)])

@pytest.mark.hograd_growth(over="n", peak="O(n)", ops="O(1)")
@pytest.mark.parametrize("n", [8, 16, 32, 64])
def test_kept(hograd, n):
    hograd(hvp, f, torch.ones(n), torch.ones(n))

@pytest.mark.hograd_growth(over="n", peak="O(n)", ops="O(n)")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [4, 8, 12, 16, 20])
def test_faster(hograd, n, dtype):
    hograd(hessian, f, torch.ones(n, dtype=getattr(torch, dtype)))

@pytest.mark.hograd_growth(over="n", peak="O(n**2)")
@pytest.mark.parametrize("n", [4, 8, 12])
def test_too_few(hograd, n):
    hograd(hessian, f, torch.ones(n))

@pytest.mark.hograd_growth(over="n", peak="O(n)")
@pytest.mark.parametrize(("k", "n"), [(1, 4), (1, 8), (1, 12), (1, 16)])
def test_not_all(hograd, k, n):
    if n == 8:
        pytest.skip("not today")
    hograd(hvp, f, torch.ones(n), torch.ones(n))

@pytest.mark.hograd_growth(over="m", peak="O(m)")
@pytest.mark.parametrize("n", [4])
def test_no_such_parameter(hograd, n):
    hograd(f, torch.ones(n))

@pytest.mark.hograd_growth(over="n", peak="O(log n)")
@pytest.mark.parametrize("n", [4])
def test_no_such_growth(hograd, n):
    hograd(f, torch.ones(n))
"""
)
