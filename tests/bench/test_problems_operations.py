"""Hand-counted operations against a machine that executes f, scalar by scalar, and counts what it does.

``CountingTensor`` carries an array of counting scalars through the very f that the suite measures: every torch
function that f calls is carried out in scalar operations (a matrix product as its multiplications and
additions, ...), so both the VALUE and the counts come from the same execution. A torch function that the
machine does not know is an error, so nothing goes uncounted.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hograd_bench import problems
from hograd_bench.problems import Problem, Spec
from torch import Tensor

# Other tests may load problem files of their own into the same process.
OURS = {name: p for name, p in problems.problems().items() if p.build.__module__.startswith("hograd_bench.problems.")}
COUNTS: Counter[str] = Counter()


class Scalar:
    """A float that counts its operations. Changes of sign are free."""

    def __init__(self, value: float) -> None:
        self.value = float(value)

    def _binary(self, kind: str, compute: Callable[[float, float], float], other: Any) -> Scalar:
        COUNTS[kind] += 1
        return Scalar(compute(self.value, other.value if isinstance(other, Scalar) else float(other)))

    def __add__(self, other: Any) -> Scalar:
        return self._binary("add", lambda a, b: a + b, other)

    def __sub__(self, other: Any) -> Scalar:
        return self._binary("add", lambda a, b: a - b, other)

    def __rsub__(self, other: Any) -> Scalar:
        return self._binary("add", lambda a, b: b - a, other)

    def __mul__(self, other: Any) -> Scalar:
        return self._binary("mul", lambda a, b: a * b, other)

    def __truediv__(self, other: Any) -> Scalar:
        return self._binary("div", lambda a, b: a / b, other)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Scalar:
        return Scalar(-self.value)

    def __pow__(self, exponent: int) -> Scalar:
        if exponent in (2, 3):  # torch multiplies here and calls pow beyond
            return functools.reduce(lambda a, b: a * b, [self] * exponent)
        return self._binary("transcendental", lambda a, b: a**b, exponent)

    def __gt__(self, other: Scalar) -> bool:
        COUNTS["compare"] += 1
        return self.value > other.value

    def apply(self, function: Callable[[float], float]) -> Scalar:
        COUNTS["transcendental"] += 1
        return Scalar(function(self.value))


class CountingTensor(Tensor):
    """A tensor whose entries are computed by :class:`Scalar`; its own storage serves for shapes alone."""

    cells: np.ndarray[Any, Any]

    @classmethod
    def wrap(cls, cells: Any) -> CountingTensor:
        array = np.asarray(cells, dtype=object)
        result = torch.zeros(array.shape, dtype=torch.float64).as_subclass(cls)
        result.cells = array
        return result

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in METADATA or getattr(func, "__name__", "") in METADATA_NAMES:
            return super().__torch_function__(func, types, args, kwargs or {})
        rule = RULES.get("T" if func == Tensor.T.__get__ else func.__name__.strip("_"))
        if rule is None:
            raise NotImplementedError(f"no counting rule for {func}")
        result = rule(*(cells_of(a) for a in args), **{k: cells_of(v) for k, v in (kwargs or {}).items()})
        return tuple(cls.wrap(r) for r in result) if isinstance(result, list) else cls.wrap(result)


METADATA = {
    getattr(Tensor, name).__get__ for name in ("shape", "requires_grad", "dtype", "device", "grad_fn")
}  # what is read of a tensor, at no operation
METADATA_NAMES = {"size", "dim", "numel", "__len__"}


def cells_of(value: Any) -> Any:
    """The object array of a tensor; anything else as it is."""
    if isinstance(value, CountingTensor):
        return value.cells
    if isinstance(value, Tensor):
        return value.detach().numpy().astype(object if value.dtype.is_floating_point else int)
    return value


def total(values: Iterable[Any]) -> Any:
    return functools.reduce(lambda a, b: a + b, values)


def largest(values: Iterable[Scalar]) -> Scalar:
    return functools.reduce(lambda a, b: b if b > a else a, values)


def along(function: Callable[[list[Any]], Any], a: Any, dims: Any) -> Any:
    """Reduce some dimensions by a function of the list of entries."""
    dims = (dims,) if isinstance(dims, int) else tuple(range(a.ndim)) if dims is None else tuple(dims)
    dims = tuple(d % a.ndim for d in dims)
    kept = tuple(d for d in range(a.ndim) if d not in dims)
    arranged = a.transpose(*kept, *dims).reshape(*(a.shape[d] for d in kept), -1)
    result = np.empty(arranged.shape[:-1], dtype=object)
    for index in np.ndindex(result.shape):
        result[index] = function(list(arranged[index]))
    return result


def each(function: Callable[[float], float]) -> Callable[..., Any]:
    return lambda a: np.vectorize(lambda s: s.apply(function), otypes=[object])(a)


def matmul(a: Any, b: Any) -> Any:
    rows = a[None, :] if a.ndim == 1 else a
    columns = b[:, None] if b.ndim == 1 else b
    batch = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    rows, columns = np.broadcast_to(rows, batch + rows.shape[-2:]), np.broadcast_to(columns, batch + columns.shape[-2:])
    result = np.empty((*batch, rows.shape[-2], columns.shape[-1]), dtype=object)
    for *at, i, j in np.ndindex(result.shape):
        where = tuple(at)
        result[(*where, i, j)] = total(
            p * q for p, q in zip(rows[(*where, i)], columns[(*where, slice(None), j)], strict=True)
        )
    result = result[..., 0] if b.ndim == 1 else result
    return result[..., 0, :] if a.ndim == 1 and b.ndim > 1 else result[..., 0] if a.ndim == 1 else result


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    result = matmul(x, weight.T)
    return result if bias is None else result + bias


def conv2d(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    assert (tuple(stride), tuple(padding), tuple(dilation), groups) == ((1, 1), (1, 1), (1, 1), 1)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.0)
    result = np.empty((x.shape[0], weight.shape[0], *x.shape[2:]), dtype=object)
    for b, o, i, j in np.ndindex(result.shape):
        patch = padded[b, :, i : i + 3, j : j + 3].reshape(-1)
        result[b, o, i, j] = total(p * q for p, q in zip(patch, weight[o].reshape(-1), strict=True)) + bias[o]
    return result


def shifted(row: list[Scalar]) -> tuple[Scalar, list[Scalar], list[Scalar]]:
    top = largest(row)
    differences = [s - top for s in row]
    return top, differences, [d.apply(math.exp) for d in differences]


def logsumexp(row: list[Scalar]) -> Scalar:
    top, _, exponentials = shifted(row)
    return total(exponentials).apply(math.log) + top


def softmax(a: Any, dim: int) -> Any:
    assert dim == -1
    result = np.empty(a.shape, dtype=object)
    for index in np.ndindex(a.shape[:-1]):
        _, _, exponentials = shifted(list(a[index]))
        sum_ = total(exponentials)
        result[index] = [e / sum_ for e in exponentials]
    return result


def cross_entropy(logits: Any, targets: Any, **options: Any) -> Any:
    assert (options["weight"], options["reduction"], options["label_smoothing"]) == (None, "mean", 0.0)
    picked = []
    for row, label in zip(logits, targets, strict=True):
        _, differences, exponentials = shifted(list(row))
        log = total(exponentials).apply(math.log)
        picked.append([d - log for d in differences][label])
    return -total(picked) / len(picked)


RULES: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "rsub": lambda a, b: b - a,
    "mul": lambda a, b: a * b,
    "rmul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "truediv": lambda a, b: a / b,
    "pow": lambda a, p: np.vectorize(lambda s: s**p, otypes=[object])(a),
    "sin": each(math.sin),
    "tanh": each(math.tanh),
    "exp": each(math.exp),
    "sqrt": each(math.sqrt),
    "sum": lambda a: along(total, a, None),
    "mean": lambda a, dim: along(lambda row: total(row) / len(row), a, dim),
    "logsumexp": lambda a, dim: along(logsumexp, a, dim),
    "matmul": matmul,
    "T": lambda a: a.T,
    "getitem": lambda a, index: a[index],
    "roll": lambda a, shift: np.roll(a, shift),
    "reshape": lambda a, shape: a.reshape(shape),
    "transpose": lambda a, i, j: a.swapaxes(i, j),
    "split": lambda a, sizes, dim: np.split(a, np.cumsum(sizes)[:-1], axis=dim),
    "split_with_sizes": lambda a, sizes, dim=0: np.split(a, np.cumsum(sizes)[:-1], axis=dim),
    "to": lambda a, *how, **named: a,
    "view": lambda a, *shape: a.reshape(shape[0] if len(shape) == 1 else shape),
    "linear": linear,
    "conv2d": conv2d,
    "softmax": softmax,
    "cross_entropy": cross_entropy,
}


def executed(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[float, dict[str, int]]:
    """The value of f at x in scalar operations, and their counts."""
    COUNTS.clear()
    start = np.vectorize(Scalar, otypes=[object])(x.numpy())
    result = f(CountingTensor.wrap(start))
    assert isinstance(result, CountingTensor)
    return result.cells.item().value, dict(COUNTS)


COUNTED = [pytest.param(p, id=name) for name, p in OURS.items() if p.operations is not None]


@pytest.mark.parametrize("problem", COUNTED)
def test_hand_count_is_what_f_executes(problem: Problem) -> None:
    for spec in (Spec(2, 1, 1), Spec(2, 3, 2), Spec(5, 1, 3), Spec(4, 2, 1)):
        instance = problem.instance(spec)
        value, counts = executed(instance.f, instance.x)
        assert value == pytest.approx(float(instance.f(instance.x)), rel=1e-12), spec
        assert problem.operations is not None
        assert counts == {k: c for k, c in problem.operations(spec).items() if c}, spec


def test_all_but_the_fused_kernel_are_counted() -> None:
    uncounted = {name for name, p in OURS.items() if p.operations is None}
    assert uncounted == {"sdpa_attention_loss"}


def test_the_machine_counts_a_known_program() -> None:
    a = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3)

    def f(x: Tensor) -> Tensor:
        y = F.linear(x, a) / 2  # 6 mul, 4 add, 2 div
        return (y**3 - y.exp() * 3).sum()  # 4 mul; 2 exp, 2 mul, 2 sub; 1 add

    x = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    value, counts = executed(f, x)
    assert value == pytest.approx(float(f(x)), rel=1e-14)
    assert counts == {"mul": 12, "add": 7, "div": 2, "transcendental": 2}


def test_the_machine_refuses_what_it_cannot_count() -> None:
    with pytest.raises(NotImplementedError, match="erf"):
        executed(lambda x: x.erf().sum(), torch.zeros(2, dtype=torch.float64))
