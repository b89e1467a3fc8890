"""The conformance loop can fail: broken kernels of every kind are noticed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conformance_loop import Case, agrees, fits, loop, make_case, reshaped
from core_fakes import mostly_slow
from hograd_bench import problems
from torch import Tensor

import hograd_core
from hograd_core import Operator, reference

# A batching rule that PyTorch lacks, with a slow fallback, is no error.
pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    # The truth says so here.
    pytest.mark.filterwarnings("ignore::hograd_core.NotFiniteWarning"),
]

# --- the loop can fail --------------------------------------------------------------------------------------


def with_kernel(operator: Operator, name: str, kernel: Callable[..., Any]) -> dict[str, Operator]:
    """The operator with one method, and that method's kernel replaced."""
    broken = dataclasses.replace(operator.method(name), function=kernel)
    return {operator.name: dataclasses.replace(operator, methods={name: broken})}


def altered(change: Callable[[Tensor], Tensor], kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The kernel with its result changed."""
    return functools.wraps(kernel)(lambda *arguments, **options: change(kernel(*arguments, **options)))


def without_one_cross_term(hessian: Tensor) -> Tensor:
    """H with the entries (0, 1) and (1, 0) lost."""
    changed = hessian.clone()
    changed[0, 1] = changed[1, 0] = 0
    return changed


def in_single_precision(result: Tensor) -> Tensor:
    """The result through float32, and back: its dtype right, its digits lost."""
    return result.float().to(result.dtype)


def first_slot_transposed(entries: Tensor) -> Tensor:
    """A tensor over a matrix-shaped x whose first slot is indexed [column, row]."""
    return entries.transpose(0, 1).contiguous()


NEGATIVE_CONTROLS = [
    ("zeros", "derivative_tensor", "rows", 2, torch.zeros_like, ()),
    ("zeros", "derivative_vector_product", "double_backward", 3, torch.zeros_like, ()),
    ("zeros", "directional_derivative", "nested_grad", 2, torch.zeros_like, ()),
    ("zeros", "gradient", "autograd", 1, torch.zeros_like, ()),
    ("scaled", "derivative_tensor", "rows", 2, lambda t: 1.001 * t, ()),
    ("scaled", "derivative_vector_product", "jvp_of_grad", 3, lambda t: 1.001 * t, ()),
    ("scaled", "directional_derivative", "nested_jvp", 3, lambda t: 1.001 * t, ()),
    ("scaled", "gradient", "func", 1, lambda t: 1.001 * t, ()),
    ("cross term", "derivative_tensor", "func_hessian", 2, without_one_cross_term, ()),
    ("transposed", "derivative_tensor", "rows", 3, first_slot_transposed, (2, 2)),
    ("nan", "derivative_vector_product", "double_backward", 2, lambda t: t * float("nan"), ()),
    ("row", "derivative_vector_product", "double_backward", 2, lambda t: t[None], ()),
    ("dtype", "derivative_vector_product", "double_backward", 2, lambda t: t.to(torch.bfloat16), ()),
]


@pytest.mark.parametrize(
    ("operator", "method", "order", "change", "shape"),
    [control[1:] for control in NEGATIVE_CONTROLS],
    ids=["-".join(map(str, control[:4])) for control in NEGATIVE_CONTROLS],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_broken_kernel_fails_the_loop(
    operator: str,
    method: str,
    order: int,
    change: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    record = hograd_core.operators()[operator]
    case = make_case("mlp", dtype, 4)
    case = reshaped(case, *shape) if shape else case
    (sound,) = loop(case, with_kernel(record, method, record.method(method).function), range(order, order + 1))
    assert sound.status == "ok", "the control must fail for its change alone"
    (broken,) = loop(
        case, with_kernel(record, method, altered(change, record.method(method).function)), range(order, order + 1)
    )
    assert broken.status == "wrong"


def test_lost_digits_fail_the_loop() -> None:
    record = hograd_core.derivative_tensor
    case = make_case("mlp", torch.float64)
    kernel = altered(in_single_precision, record.method("rows").function)
    outcomes = list(loop(case, with_kernel(record, "rows", kernel), range(1, 4)))
    assert [o.status for o in outcomes] == ["wrong"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("status", ["wrong", "failed", "unsupported"])
def test_the_test_itself_fails(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    """Not only the loop: the test over it, with one kernel of all of them broken in each way."""

    def raises(*arguments: Any, **options: Any) -> Tensor:
        message = "ZeroTensors are immutable" if status == "unsupported" else "size mismatch"
        raise RuntimeError(message)

    record = hograd_core.derivative_tensor
    sound = record.method("rows")
    kernel = altered(torch.zeros_like, sound.function) if status == "wrong" else functools.wraps(sound.function)(raises)
    monkeypatch.setitem(record.methods, "rows", dataclasses.replace(sound, function=kernel))
    with pytest.raises(AssertionError, match=r"derivative_tensor.*rows.*powers"):
        agrees("powers", torch.float64)


def test_the_transposed_control_changes_a_tensor_with_distinct_entries() -> None:
    case = reshaped(make_case("mlp", torch.float64, 4), 2, 2)
    true = reference.reference("derivative_tensor", case.precise.f, case.precise.x, order=3)
    # A third derivative is symmetric in its slots: 20 of 64 entries of four variables are distinct, no more.
    assert len(set(true.flatten().tolist())) >= 20
    assert reference.relative_error(first_slot_transposed(true), true) > 0.01


def some_case(operator: Operator) -> Case:
    """The first problem that has the operator's arguments; mlp for those of f."""
    for name in ("mlp", *sorted(problems.problems())):
        case = make_case(name, torch.float64)
        if fits(operator, case.instance):
            return case
    raise AssertionError(f"{operator.name}: no problem has its arguments {operator.inputs}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "method"), mostly_slow((o.name, m) for o in hograd_core.operators().values() for m in o.methods)
)
def test_a_deleted_body_fails_the_loop(operator: str, method: str) -> None:
    record = hograd_core.operators()[operator]
    kernel = functools.wraps(record.method(method).function)(lambda *arguments, **options: None)
    lowest = record.method(method).min_order
    case = some_case(record)
    order = record.order or lowest
    outcomes = list(loop(case, with_kernel(record, method, kernel), range(order, order + 1)))
    assert [o.status for o in outcomes] == ["wrong"]
