"""What type checkers and ``inspect.signature`` say of a call is what calling does."""

from __future__ import annotations

import inspect
import runpy
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import hograd_core
from hograd_core import Operator
from hograd_core._checks import T
from hograd_core._how import How

ROOT = Path(__file__).parents[2]
USER = ROOT / "tests" / "typing" / "user.py"

# Every operator and every alias of the library: its record, what is called, and the order that an alias fixes.
CALLED: list[tuple[Operator, Callable[..., Any], int | None]] = [
    called
    for record in hograd_core.operators().values()
    if record.guard.__module__.startswith("hograd_core.")
    for called in (
        (record, record, None),
        *((record, f, order) for f, order in zip(record.functions, record.aliases.values(), strict=True)),
    )
]
every = pytest.mark.parametrize(
    ("record", "called", "order"), CALLED, ids=[getattr(c, "__name__", "") for _, c, _ in CALLED]
)
EVERYONES = {
    "method",
    "probe",
    "repair",
    "verify",
    "strict",
    "args",
    "in_dims",
    "flat",
    "create_graph",
    "memory",
    "parameters",
}


def kernels(record: Operator) -> list[hograd_core.Method]:
    """The methods of the library itself, without those that a test's plugin or a peer has added."""
    return [m for m in record.methods.values() if m.function.__module__.startswith("hograd_core.")]


def parameters(called: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(called).parameters)


def options(called: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only parameters beyond those of every operator, with their defaults."""
    return {n: p.default for n, p in parameters(called).items() if p.kind is p.KEYWORD_ONLY and n not in EVERYONES}


def given(called: Callable[..., Any]) -> dict[str, Any]:
    """Something for every argument without a default: what gets as far as the guard, which refuses it by its name."""
    return {name: object() for name, p in parameters(called).items() if p.default is p.empty}


def refusal(called: Callable[..., Any], *arguments: Any, **keywords: Any) -> str:
    with pytest.raises((TypeError, ValueError)) as error:
        called(*arguments, **keywords)
    return str(error.value)


@every
def test_what_is_shown_is_accepted(record: Operator, called: Callable[..., Any], order: int | None) -> None:
    names = list(parameters(called))
    arguments = [n for n, p in parameters(called).items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert arguments == [n for n in parameters(record) if n in arguments], "an alias has its operator's arguments"
    assert ("order" in arguments) == (order is None and record.takes_order)
    assert list(given(called)) == list(record.inputs)
    for way in ([], list(given(called).values())):
        keywords = {} if way else given(called)
        for name, method in record.methods.items():
            if order is None or method.supports(order):
                at = {"order": method.min_order} if "order" in arguments else {}
                of_method = {n: d for n, d in options(called).items() if n in method.options}
                for how in ({}, {"repair": False, "strict": False}, of_method):
                    assert ": got " in refusal(called, *way, method=name, **keywords, **how, **at)
    assert EVERYONES - {"verify"} <= set(names)
    assert ("verify" in names) == (record.verification is not None)


@every
def test_what_is_not_shown_is_refused(record: Operator, called: Callable[..., Any], order: int | None) -> None:
    assert "no_such: not an option" in refusal(called, **given(called), no_such=1)
    assert "how: not an option" in refusal(called, **given(called), how=1)
    for missing in given(called):
        assert "missing" in refusal(called, **{n: v for n, v in given(called).items() if n != missing})
    too_many = [object()] * (1 + sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters(called).values()))
    assert "positional arguments" in refusal(called, *too_many)
    if record.verification is None:
        assert "no second definition" in refusal(called, **given(called), verify=True)
    if order is not None:
        refusal(called, **given(called), order=order)


@every
def test_options_are_those_of_the_methods(record: Operator, called: Callable[..., Any], order: int | None) -> None:
    of_methods = {
        (name, inspect.signature(method.function).parameters[name].default)
        for method in record.methods.values()
        for name in method.options
    }
    assert of_methods == set(options(called).items()), "two methods of an operator with two defaults of one option"


@every
def test_the_result_is_the_methods(record: Operator, called: Callable[..., Any], order: int | None) -> None:
    of_methods = {inspect.signature(m.function, eval_str=True).return_annotation for m in kernels(record)}
    shown = typing.get_type_hints(getattr(called, "guard", called))["return"]
    assert of_methods == {Tensor if shown is T else shown}, "where x is a tensor, so is what has its shape"


def test_how_has_every_option_with_its_type() -> None:
    of_methods = {
        (name, inspect.signature(method.function, eval_str=True).parameters[name].annotation)
        for record, _, _ in CALLED
        for method in kernels(record)
        for name in method.options
    }
    hints = typing.get_type_hints(How)
    assert of_methods == {(name, hint) for name, hint in hints.items() if name not in EVERYONES}
    assert hints.keys() >= EVERYONES


def test_the_users_file_runs() -> None:
    runpy.run_path(str(USER), run_name="__main__")


@pytest.mark.slow
def test_mypy_says_of_the_users_file_what_it_says() -> None:
    """Right calls have the types they assert, and wrong ones are errors: an ignore that is not needed is one itself."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(USER)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stdout
