"""Limits of cost in other people's tests, as pytest sees them: one run of a project of theirs, its outcomes by name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "your_project.md").read_text(encoding="utf-8")

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


class Outcome(NamedTuple):
    """What became of a test, and the text of its failure."""

    outcome: str
    text: str


class Ran(NamedTuple):
    """A run of pytest."""

    code: int
    outcomes: dict[str, Outcome]
    output: str


Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a project's tests, each file given by its text."""

    def run(*options: str, **files: str) -> Ran:
        folder = tmp_path_factory.mktemp("theirs")
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
        report = folder / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        ended = subprocess.run(
            [*command, *options, "-p", "hograd_bench.sweeps.plugin"],
            cwd=folder, env=alone, capture_output=True, text=True, check=False,
        )  # fmt: skip
        output = ended.stdout + ended.stderr
        assert report.exists(), output
        return Ran(ended.returncode, dict(map(_outcome, ET.parse(report).iter("testcase"))), output)

    return run


def _outcome(case: ET.Element) -> tuple[str, Outcome]:
    for kind in ("failure", "error", "skipped"):
        found = case.find(kind)
        if found is not None:
            return case.attrib["name"], Outcome(kind, f"{found.attrib.get('message', '')}\n{found.text or ''}")
    return case.attrib["name"], Outcome("passed", "")


@pytest.fixture(scope="module")
def limits(run: Run) -> Ran:
    return run("-p", "without_extra", "--strict-markers", without_extra=WITHOUT_EXTRA, test_limits=LIMITS)


@pytest.fixture(scope="module", params=["one process", pytest.param("two processes", marks=pytest.mark.slow)])
def growth(run: Run, request: pytest.FixtureRequest) -> Ran:
    options = ("-p", "xdist", "-n", "2") if request.param == "two processes" else ()
    return run(*options, test_growth=GROWTH)


PASSED = (
    "test_nearest_mark_holds", "test_a_gradient_of_a_module_is_one", "test_random_numbers",
    "test_of_a_structure", "test_time", "test_agree", "test_through_a_fixture", "test_without_gradients",
    "test_of_unittest",
)  # fmt: skip
REFUSED = {
    "test_peak": ("failure", r"hvp is over its limits", r"took .* allowed 20 KiB", r"by aten::mul within .*backward 2"),
    "test_ops": ("failure", r"dispatched 24 operators, 2\.182 gradients of 11 each, allowed 2 grad", r"8 aten\.mul"),
    "test_leaks": ("failure", r"leaks: 4,000 B are alive .* allowed 1 KiB", r"within CosBackward0, backward 2"),
    "test_no_unit": ("failure", r"got a value of \(1000,\), expected one number; .*: hograd\.of\(f, x\)"),
    "test_not_called": ("failure", r"@pytest\.mark\.hograd limits .* never called the fixture hograd"),
    "test_not_taken": ("error", r"does not take the fixture hograd"),
    "test_unknown_limit": ("error", r"got 'pek', expected keywords, some of peak, leaks, ops, time_gradients"),
    "test_no_size": ("error", r"peak: got 'much', expected bytes >= 0, or text such as \"40 MiB\""),
    "test_no_limit": ("error", r"hograd: nothing is limited; give some of peak, leaks, ops, time_gradients"),
    "test_coroutine": ("failure", r"got .*later, which returns a coroutine or a generator", r"asyncio\.run\(fn\(x\)\)"),
    "test_generator": ("failure", r"got .*parts, which returns a coroutine or a generator"),
    "test_raises": ("failure", r"ZeroDivisionError: theirs"),
    "test_only_raises": ("failure", r"never called the fixture hograd"),
    "test_expected_to_be_over": ("skipped", r""),
    "test_skipped": ("skipped", r"for a reason"),
    "test_disagree": ("failure", r"not all agree with hvp", r"wrong: differs by .* at \(999,\), allowed 1e-06"),
    "test_shapes": ("failure", r"gives shape \(999,\), not \(1000,\), in the result's \[0\]"),
    "test_structures": ("failure", r"gives another structure"),
    "test_not_finite": ("failure", r"is not finite in the same entries"),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSED)
def test_what_is_within_its_limits_passes_with_torch_alone(limits: Ran, name: str) -> None:
    assert limits.outcomes[name] == Outcome("passed", ""), limits.output


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_over_fails_and_says_why(limits: Ran, name: str) -> None:
    outcome, *said = REFUSED[name]
    found = limits.outcomes[name]
    assert found.outcome == outcome, found
    for words in said:
        assert re.search(words, found.text), found.text


def test_every_outcome_is_looked_at(limits: Ran) -> None:
    assert set(limits.outcomes) == {*PASSED, *REFUSED}
    assert limits.code == 1


def test_a_time_that_was_not_checked_is_said(limits: Ran) -> None:
    assert "test_limits.py::test_time: time_gradients=4 was not checked; --hograd-time checks it" in limits.output


GROWN = {
    "test_kept[growth over n]": ("passed",),
    **{
        f"test_faster[dtype=float{8 * size}][growth over n]": (
            "failure", rf"peak: peak_bytes = {size}·\(.*n².*allowed O\(n\)", r"n = 4: [\d,]+, n = 8: ",
            r"at n = 20\n.* by aten::", r"ops: aten_calls = .*n.*; allowed O\(n\)",
        )
        for size in (4, 8)
    },
    "test_too_few[growth over n]": ("failure", r"peak: insufficient data: have 3 sizes"),
    "test_not_all[k=1][growth over n]": ("skipped", r"growth over n: 3 of 4 sizes were measured"),
    "test_no_such_parameter[4]": ("error", r"over: got no parameter 'm', expected whole sizes >= 1"),
    "test_no_such_growth[4]": ("error", r"peak: got 'O\(log n\)', expected \"O\(1\)\", \"O\(n\)\", \"O\(n\^2\)\""),
}  # fmt: skip


def test_growth_is_an_outcome_of_its_own(growth: Ran) -> None:
    assert {name for name in growth.outcomes if "growth over" in name} == {n for n in GROWN if "growth over" in n}
    for name, (outcome, *said) in GROWN.items():
        found = growth.outcomes[name]
        assert found.outcome == outcome, growth.output
        for words in said:
            assert re.search(words, found.text), found.text
    assert growth.code == 1


def test_nothing_is_imported_before_a_test_asks(run: Run) -> None:
    ran = run(test_lazy=LAZY)
    assert ran.outcomes == {"test_nothing_was_imported": Outcome("passed", "")}, ran.output


def test_marks_are_declared() -> None:
    command = [sys.executable, "-m", "pytest", "--markers", "-p", "hograd_bench.sweeps.plugin"]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    said = subprocess.run(
        command, cwd=Path(__file__).parent, env=alone, capture_output=True, text=True, check=True
    ).stdout
    assert "@pytest.mark.hograd(" in said
    assert "@pytest.mark.hograd_growth(" in said


def test_the_example_of_the_page_runs(run: Run) -> None:
    (example,) = re.findall(r"```python\n(import pytest\n.*?)```", DOCS, re.DOTALL)
    ran = run("--strict-markers", test_example=example)
    assert ran.code == 0, ran.output
    assert ran.outcomes["test_growth[growth over n]"].outcome == "passed"
