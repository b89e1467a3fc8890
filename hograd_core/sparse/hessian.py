"""Hessians with few entries that are not zero: exact, in one product a colour (Coleman & Moré 1984)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import ScalarFunction, check_point, scalar_function
from hograd_core._differences import check_derivative, probe
from hograd_core._entrance import entrance
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core.arguments import point_of
from hograd_core.derivatives._autograd import grad_or_zeros, leaf, refuse_in_transform
from hograd_core.derivatives.derivative_tensor import derivative_tensor
from hograd_core.hazards import _graph, guarded
from hograd_core.sparse._colouring import Colouring, colouring
from hograd_core.sparse._recovery import compressed, fits, recovered, spread
from hograd_core.sparse._sets import numbers
from hograd_core.sparse._trace import Trace

SOURCE = "Coleman & Moré 1984; Gebremedhin, Manne & Pothen 2005, §6; pattern by tracing, cf. Walther 2008"


def traced(f: ScalarFunction, point: Tensor) -> tuple[Tensor, Colouring, bool]:
    """The value of f at a leaf, the colouring of its Hessian's pattern, and whether that is the same for all values."""
    with Trace(point) as trace:
        value = f(point)
    # What a function of the caller's own does in its backward pass is not seen.
    trace.full |= any(map(_graph.custom_function, _graph.nodes(_graph.recorded(value))))
    return value, colouring(trace.pattern()), trace.full or not trace.looked


class _Products:
    """Hessian products at a point, on the graph of one gradient.

    Args:
        f: the function, of a tensor.
        x: the point.
        find: whether the pattern is found in the same run of f.

    Attributes:
        n: elements of x. plan: the colouring of that pattern, or None.
        made: products made so far.
    """

    def __init__(self, f: ScalarFunction, x: Tensor, *, find: bool) -> None:
        self._point, self.n = leaf(x), x.numel()
        self.plan: Colouring | None = None
        self.made = 0
        if find:
            value, self.plan, _ = traced(f, self._point)
        else:
            value = f(self._point)
        self._gradient = grad_or_zeros(value, self._point, create_graph=True).reshape(-1)

    def with_vector(self, v: Tensor) -> Tensor:
        """H v for flat v."""
        self.made += 1
        found = grad_or_zeros(self._gradient, self._point, create_graph=False, retain_graph=True, grad_outputs=v)
        return found.reshape(-1)

    def entries(self, plan: Colouring) -> Tensor:
        """The entries of the plan, by one product a colour."""
        colours = plan.colours.to(self._point.device)
        return recovered(
            plan, torch.cat([self.with_vector((colours == c).to(self._point.dtype)) for c in range(plan.count)])
        )

    def fits(self, plan: Colouring, entries: Tensor) -> bool:
        """Whether a product with a random vector is that of these entries: one more product."""
        v = probe(self._point, 0).reshape(-1)
        return fits(plan, entries, v, self.with_vector(v).detach())


class SparseHessian:
    """The Hessian of f where few of its entries are not zero: its pattern found once, its entries at any point.

    The pattern is found by following what depends on what through one run of f at ``x``; its columns are coloured so
    that all entries can be read off one Hessian product a colour. At each point a further product, with a random
    vector, shows whether the pattern still holds; where it does not (f branches on values), it is found anew there.
    Results are exact, and symmetric to the last digit. An operation without a rule makes the pattern full.

    Cost: to make one, a run of f in Python and time proportional to the sum of the squared row lengths; a call, one
    gradient with its graph and ``colours + 1`` products, and memory for ``colours`` vectors.

    Args:
        f: function of x and ``args`` to a 0-dimensional tensor.
        x: a point, any shape, a real floating dtype, any device; or a structure of tensors, then flat.
        args: what f takes after x, not differentiated.

    Attributes:
        n: elements of x. nonzeros: entries of the pattern. colours: products that give them.
        products: Hessian products made so far.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for; the message names it.
        UnsupportedError: PyTorch differentiates f wrongly by double backward.
    """

    @entrance
    def __init__(self, f: Any, x: Any, *, args: tuple[Any, ...] = ()) -> None:
        self._f, x, self._packing = point_of(f, x, args)
        point = check_point(x)
        self._shape, self.n, self.products = point.shape, point.numel(), 0
        plan = self._at(point, find=True).plan
        assert plan is not None
        self._plan: Colouring = plan

    def _at(self, x: Tensor, *, find: bool) -> _Products:
        with guarded("SparseHessian", ("double_backward", 2)):
            return _Products(scalar_function(self._f), x, find=find)

    @property
    def colours(self) -> int:
        """Number of products that give all entries."""
        return self._plan.count

    @property
    def nonzeros(self) -> int:
        """Entries of the pattern, which may be zero at a point."""
        return self._plan.rows.numel()

    @property
    def pattern(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of the entries, sorted, int64 on the CPU."""
        return self._plan.rows, self._plan.columns

    @entrance
    def sparse(self, x: Any) -> Tensor:
        """The Hessian at x as an (n, n) tensor of layout ``torch.sparse_csr``, in the dtype and on the device of x."""
        return compressed(*self._entries(x))

    @entrance
    def dense(self, x: Any) -> Tensor:
        """The Hessian at x as an (n, n) tensor."""
        return spread(*self._entries(x))

    def _entries(self, x: Any) -> tuple[Colouring, Tensor]:
        point = self._packing.pack(x, "x") if self._packing is not None else x
        point = check_point(point)
        if point.shape != self._shape:
            raise ValueError(f"x: got shape {tuple(point.shape)}, expected {tuple(self._shape)}; make another for it")
        plan, entries, products = _found(lambda find: self._at(point, find=find), self._plan)
        self._plan = plan
        self.products += products
        return plan, entries


def _found(at: Callable[[bool], _Products], plan: Colouring | None) -> tuple[Colouring, Tensor, int]:
    """(plan, entries, products made): by the plan given, else by the pattern found here, else column by column."""
    made = 0
    for known in (plan, None) if plan is not None else (None,):
        products = at(known is None)
        use = known or products.plan
        assert use is not None
        entries = products.entries(use)
        held = use.count == use.n or products.fits(use, entries)
        made += products.made
        if held:
            return use, entries, made
    n = products.n
    every = numbers(n)
    rows, columns = every.repeat_interleave(n), every.repeat(n)
    full = Colouring(every, n, rows, columns, columns, rows)  # product i is row i, symmetric or not
    return full, products.entries(full), products.made + n


def _once(f: ScalarFunction, x: Tensor) -> tuple[Colouring, Tensor]:
    refuse_in_transform("a pattern is traced on plain tensors")
    plan, entries, _ = _found(lambda find: _Products(f, x, find=find), None)
    return plan, entries


def _check(where: str, result: Tensor, arguments: tuple[Any, ...], order: int | None) -> None:
    """What ``verify=True`` does: differences of gradients.

    Raises:
        VerificationError: the result disagrees.
    """
    shape = arguments[1].shape
    check_derivative(where, result.to_dense().reshape(shape * 2), arguments, 2, slots=None)


@operator(result="(n, n), sparse", default="coloured", order=2, verification=_check)
def sparse_hessian(f: ScalarFunction, x: Tensor, **how: Unpack[How]) -> Tensor:
    """The Hessian ∇²f(x) as a sparse matrix: the entries that can differ from zero.

    For more points than one make a :class:`hograd_core.sparse.SparseHessian`, which finds the pattern once.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device; n elements, counted row-major.

    Returns:
        A detached (n, n) tensor of layout ``torch.sparse_csr``, in the dtype and on the device of x.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional, or x is empty.
        UnsupportedError: called inside a transform of torch.func.
    """
    return to_method(scalar_function(f), check_point(x))


@method(
    sparse_hessian,
    "coloured",
    mode="reverse over reverse, one product a colour",
    source=SOURCE,
    amounts_to=(("double_backward", 2),),
)
def coloured_sparse(f: ScalarFunction, x: Tensor) -> Tensor:
    """The pattern, a product a colour of it, and one to check. Memory: a vector a colour, and the entries."""
    return compressed(*_once(f, x))


@method(
    derivative_tensor,
    "coloured",
    mode="reverse over reverse, one product a colour",
    source=SOURCE,
    min_order=2,
    max_order=2,
    amounts_to=(("double_backward", 2),),
)
def coloured(f: ScalarFunction, x: Tensor, *, order: int) -> Tensor:
    """As ``sparse_hessian``, spread to all n² entries: few products where most second derivatives are zero."""
    return spread(*_once(f, x)).view(x.shape * order)
