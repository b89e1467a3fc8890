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
from limits_projects import GROWTH, LAZY, LIMITS, WITHOUT_EXTRA

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "your_project.md").read_text(encoding="utf-8")


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


@pytest.mark.slow
@pytest.mark.parametrize("name", PASSED)
def test_what_is_within_its_limits_passes_with_torch_alone(limits: Ran, name: str) -> None:
    assert limits.outcomes[name] == Outcome("passed", ""), limits.output


@pytest.mark.slow
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


@pytest.mark.slow
def test_growth_is_an_outcome_of_its_own(growth: Ran) -> None:
    assert {name for name in growth.outcomes if "growth over" in name} == {n for n in GROWN if "growth over" in n}
    for name, (outcome, *said) in GROWN.items():
        found = growth.outcomes[name]
        assert found.outcome == outcome, growth.output
        for words in said:
            assert re.search(words, found.text), found.text
    assert growth.code == 1


@pytest.mark.slow
def test_nothing_is_imported_before_a_test_asks(run: Run) -> None:
    ran = run(test_lazy=LAZY)
    assert ran.outcomes == {"test_nothing_was_imported": Outcome("passed", "")}, ran.output


@pytest.mark.slow
def test_marks_are_declared() -> None:
    command = [sys.executable, "-m", "pytest", "--markers", "-p", "hograd_bench.sweeps.plugin"]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    said = subprocess.run(
        command, cwd=Path(__file__).parent, env=alone, capture_output=True, text=True, check=True
    ).stdout
    assert "@pytest.mark.hograd(" in said
    assert "@pytest.mark.hograd_growth(" in said


@pytest.mark.slow
def test_the_example_of_the_page_runs(run: Run) -> None:
    (example,) = re.findall(r"```python\n(import pytest\n.*?)```", DOCS, re.DOTALL)
    ran = run("--strict-markers", test_example=example)
    assert ran.code == 0, ran.output
    assert ran.outcomes["test_growth[growth over n]"].outcome == "passed"
