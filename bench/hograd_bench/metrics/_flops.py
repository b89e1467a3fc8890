"""Floating-point operations of ATen operators, with the formulas that ``torch.utils.flop_counter`` lacks.

Conventions (docs/measurement.md):

- An addition, subtraction, multiplication, division, negation, absolute value, comparison that selects a number
  (max, relu, clamp) and an elementary function (exp, sin, tanh, erf, sqrt, pow) count one each. Predicates (eq,
  isnan, logical), selection by a given mask (where), copies, views, fills and integer arithmetic count none.
- A contraction over k terms counts 2k and a sum over k terms counts k, as torch's own counter and the peak rates
  of machines do: the first term is added to an accumulator that starts at zero. ``accumulators`` says how often
  that was, so that a hand count, which has k-1 additions, is ``flops - accumulators``.
- Formulas of matrix products, convolutions and attention are torch's own, plus the additions of addmm, of a bias
  and of the accumulation.
- An operator without a formula is not counted, and lowers the coverage: it is never silently zero.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from hograd_bench.metrics._formulas import contractions, copies, elementwise, reductions
from hograd_bench.metrics._formulas._work import FREE as FREE
from hograd_bench.metrics._formulas._work import Arguments, Formula, Keywords, Table, Work, free

FORMULAS = Table()
for _table in (elementwise.TABLE, contractions.TABLE, reductions.TABLE, copies.TABLE):
    for _name, _formula in _table.items():
        FORMULAS.add(_name, _formula)


def formula_of(func: torch._ops.OpOverload) -> Formula | None:
    """The formula of an operator, or None where there is none. In-place and ``out=`` variants share one."""
    if is_view(func):
        return free
    namespace, _, name = func._schema.name.partition("::")
    if namespace not in ("aten", "prims"):
        return None
    known = FORMULAS.get(name)
    if known is None and name.endswith("_") and not name.endswith("__"):
        known = FORMULAS.get(name[:-1])
    if known is None and func.overloadpacket in flop_registry:
        return functools.partial(_from_torch, func.overloadpacket)
    return known


def work_of(formula: Formula, args: Arguments, kwargs: Keywords, out: Any) -> Work | None:
    """Operations of one dispatch; None where the formula does not hold (complex numbers, unforeseen arguments)."""
    if formula is free:
        return FREE
    floating = False
    for tensor in tensors((args, out)):
        if tensor.dtype.is_complex:
            return None
        floating = floating or tensor.dtype.is_floating_point
    try:
        return formula(args, kwargs, out) if floating else FREE
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        # An operator called in a way that its formula did not foresee is uncovered; it is no failure of the call.
        return None


def is_view(func: torch._ops.OpOverload) -> bool:
    """Whether the operator only makes or changes a tensor's metadata."""
    return func.is_view or torch.Tag.inplace_view in func.tags


def tensors(tree: Any) -> Iterable[Tensor]:
    """The tensors among an operator's arguments or results."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from tensors(item)


def _from_torch(packet: Any, args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """Torch's own formula, for operators that have none here."""
    return Work(int(flop_registry[packet](*args, **kwargs, out_val=out)))
