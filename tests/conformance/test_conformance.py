"""One loop over every operator x method x problem x order x dtype x shape, against the reference.

A new operator, method or problem is in the loop as soon as it is declared. What PyTorch cannot do is data:
unsupported.toml says which combinations and why, and a difference in either direction fails.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hograd_bench import problems
from torch import Tensor

import hograd_core
from hograd_core import Method, Operator, UnsupportedError, reference

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# A batching rule that PyTorch lacks, with a slow fallback, is no error.
pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    # The truth says so here.
    pytest.mark.filterwarnings("ignore::hograd_core.NotFiniteWarning"),
]

SIZES = {"n": 3, "depth": 2, "batch": 2}
# Highest order in each dtype, and for networks: 1.001 must be told from 1 in the first two.
ORDERS = {torch.float64: (4, 3), torch.float32: (3, 2), torch.bfloat16: (2, 2), torch.float16: (2, 1)}
HALF = (torch.bfloat16, torch.float16)


def orders(problem: str, dtype: torch.dtype) -> range:
    """The orders to try."""
    return range(1, ORDERS[dtype][problems.get(problem).family == "network"] + 1)


def affordable(operator: Operator, n: int, order: int) -> bool:
    """Whether a derivative of that order in n variables takes little enough for a test."""
    if not operator.takes_order:
        return True
    if operator.result == "x * order":
        return n**order <= (5_000 if order <= 2 else 220)
    return order <= 2 or n <= 12


@dataclasses.dataclass(frozen=True)
class Case:
    """An instance in the dtype that is tested and the same in float64."""

    problem: str
    instance: problems.Instance
    precise: problems.Instance
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one method on one case: status is ok, unsupported, wrong or failed."""

    operator: str
    method: str
    problem: str
    order: int
    dtype: str
    status: str
    reason: str = ""

    def __str__(self) -> str:
        at = f"{self.operator}[{self.method}] on {self.problem}, order {self.order}, {self.dtype}"
        return f"{self.status}: {at}: {self.reason}"


def make_case(name: str, dtype: torch.dtype, n: int | None = None) -> Case:
    """The problem of that name at a small size; a network of width 1 has tens of parameters already."""
    problem = problems.get(name)
    n = n or (1 if problem.family == "network" else SIZES["n"])
    spec = problems.Spec(n, *(SIZES[size] if size in problem.sizes else 1 for size in ("depth", "batch")))
    return Case(name, problem.instance(spec, dtype), problem.instance(spec, dtype, precise=True), dtype)


def reshaped(case: Case, *shape: int) -> Case:
    """The same problem as a function of a tensor of another shape."""

    def reshape(instance: problems.Instance) -> problems.Instance:
        original = instance.x.shape
        assert instance.v is not None
        return problems.Instance(
            f=lambda x: instance.f(x.reshape(original)), x=instance.x.reshape(shape), v=instance.v.reshape(shape)
        )

    return Case(case.problem, reshape(case.instance), reshape(case.precise), case.dtype)


def arguments_of(operator: Operator, instance: problems.Instance) -> tuple[Any, ...] | None:
    """The operator's arguments by name, or None where the instance does not have them."""
    known = {"f": instance.f, "x": instance.x, "v": instance.v, **instance.extras}
    return tuple(known[name] for name in operator.inputs) if set(operator.inputs) <= set(known) else None


def leaves(result: Any) -> Iterator[Tensor]:
    """The tensors of a result."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, dict):
        for value in result.values():
            yield from leaves(value)
    elif isinstance(result, tuple | list):
        for value in result:
            yield from leaves(value)


def check(operator: Operator, method: Method, case: Case, order: int, true: reference.Truth) -> Outcome:
    """Run one method on one case and hold its result against the truth."""
    arguments = arguments_of(operator, case.instance)
    assert arguments is not None
    outcome = functools.partial(Outcome, operator.name, method.name, case.problem, order, str(case.dtype)[6:])
    before = case.instance.x.clone()
    keywords = {"order": order} if operator.takes_order else {}
    try:
        result = operator(*arguments, method=method.name, **keywords)
    except UnsupportedError as error:
        return outcome("unsupported", error.reason)
    except Exception as error:
        return outcome("failed", f"{type(error).__name__}: {error}")
    if not torch.equal(before, case.instance.x) or case.instance.x.grad is not None:
        return outcome("wrong", "the method changed x or its .grad")
    if any(t.requires_grad for t in leaves(result)) or any(t.is_inference() for t in leaves(result)):
        return outcome("wrong", "the result carries a graph")
    if any(t.is_floating_point() and t.dtype != case.dtype for t in leaves(result)):
        return outcome("wrong", f"the result has dtype {[t.dtype for t in leaves(result)]}")
    deviation = reference.relative_error(result, true.value, true.scale)
    allowed = reference.tolerance(method, case.dtype, order)
    return outcome("ok") if deviation <= allowed else outcome("wrong", f"error {deviation:.3g} > {allowed:.3g}")


def orders_of(operator: Operator, case: Case, tried: range) -> list[int]:
    """Those of the orders that the operator has and that take little enough on the case."""
    candidates = tried if operator.takes_order else [operator.order or 1]
    return [order for order in candidates if affordable(operator, case.precise.x.numel(), order)]


def loop(case: Case, operators: dict[str, Operator], tried: range) -> Iterator[Outcome]:
    """Every method of the operators that the case has arguments for, at every order."""
    for operator in operators.values():
        arguments = arguments_of(operator, case.precise)
        if arguments is None or not reference.has_truth(operator.name):
            continue
        derivative = operator.takes_order or operator.order == 1
        # Eigenvalues and linear solves: LAPACK has no half precision, and one precision is enough where they are slow.
        if not derivative and (case.dtype in HALF or (case.dtype == torch.float32 and case.precise.x.numel() > 12)):
            continue
        for order in orders_of(operator, case, tried):
            methods = [m for m in operator.methods.values() if m.supports(order)]
            true = reference.true_value(operator.name, *arguments, order=order if operator.takes_order else None)
            for method in methods:
                yield check(operator, method, case, order, true)


# --- what PyTorch cannot do ---------------------------------------------------------------------------------


def expected_unsupported() -> set[tuple[str, str, str, int, str]]:
    """unsupported.toml, one tuple for each combination."""
    entries = tomllib.loads((Path(__file__).parent / "unsupported.toml").read_text(encoding="utf-8"))
    return {
        (operator, method, entry["problem"], order, kind)
        for entry in entries["unsupported"]
        for kind in [entry["kind"]]
        for key, orders in entry["combinations"].items()
        for operator, method in [key.split("/")]
        for order in orders
    }


def listed(entries: set[tuple[str, str, str, int, str]]) -> str:
    """One line for each."""
    return "\n".join(map(str, sorted(entries)))


@pytest.mark.parametrize("dtype", list(ORDERS), ids=str)
@pytest.mark.parametrize("name", sorted(problems.problems()))
def test_every_method_agrees_with_the_reference(name: str, dtype: torch.dtype) -> None:
    outcomes = list(loop(make_case(name, dtype), hograd_core.operators(), orders(name, dtype)))
    assert outcomes
    wrong = [str(o) for o in outcomes if o.status in ("wrong", "failed")]
    assert not wrong, "\n".join(wrong)
    seen = {
        (o.operator, o.method, o.problem, o.order, o.reason.partition(":")[0])
        for o in outcomes
        if o.status == "unsupported"
    }
    tried = {(o.operator, o.method, o.problem, o.order) for o in outcomes}
    expected = {entry for entry in expected_unsupported() if entry[:4] in tried}
    new, gone = (listed(difference) for difference in (seen - expected, expected - seen))
    assert not new, f"newly unsupported: a regression, or entries for unsupported.toml:\n{new}"
    assert not gone, f"supported now: take out of unsupported.toml:\n{gone}"


@pytest.mark.parametrize(("n", "shape"), [(1, ()), (1, (1, 1)), (4, (2, 2)), (6, (1, 3, 2))])
@pytest.mark.parametrize("name", ["log_sum_exp", "mlp", "polynomial"])
def test_any_shape_of_x(name: str, n: int, shape: tuple[int, ...]) -> None:
    case = make_case(name, torch.float64, n)
    if case.instance.x.numel() != n:
        pytest.skip(f"{name} has no instance of {n} elements")
    outcomes = list(loop(reshaped(case, *shape), hograd_core.operators(), range(1, 4)))
    assert [str(o) for o in outcomes if o.status != "ok"] == []
    assert {o.operator for o in outcomes} >= {"gradient", "derivative_tensor", "derivative_vector_product"}


def test_every_entry_of_the_table_names_what_exists() -> None:
    for operator, method, problem, order, _ in expected_unsupported():
        assert hograd_core.operators()[operator].method(method).supports(order)
        assert problem in problems.problems()


@pytest.mark.parametrize("name", sorted(hograd_core.operators()))
def test_every_operator_has_a_truth(name: str) -> None:
    assert reference.has_truth(name)


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
        test_every_method_agrees_with_the_reference("powers", torch.float64)


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
        if arguments_of(operator, case.instance) is not None:
            return case
    raise AssertionError(f"{operator.name}: no problem has its arguments {operator.inputs}")


@pytest.mark.parametrize(
    ("operator", "method"), [(o.name, m) for o in hograd_core.operators().values() for m in o.methods]
)
def test_a_deleted_body_fails_the_loop(operator: str, method: str) -> None:
    record = hograd_core.operators()[operator]
    kernel = functools.wraps(record.method(method).function)(lambda *arguments, **options: None)
    lowest = record.method(method).min_order
    case = some_case(record)
    order = record.order or lowest
    outcomes = list(loop(case, with_kernel(record, method, kernel), range(order, order + 1)))
    assert [o.status for o in outcomes] == ["wrong"]


def test_every_method_is_tried_and_supported_somewhere() -> None:
    refused = {entry[:4] for entry in expected_unsupported()}
    supported = {
        (operator.name, method.name)
        for case in (make_case(name, torch.float64) for name in problems.problems())
        for operator in hograd_core.operators().values()
        if arguments_of(operator, case.instance) is not None
        for order in orders_of(operator, case, orders(case.problem, torch.float64))
        for method in operator.methods.values()
        if method.supports(order) and (operator.name, method.name, case.problem, order) not in refused
    }
    assert supported == {(o.name, m) for o in hograd_core.operators().values() for m in o.methods}
