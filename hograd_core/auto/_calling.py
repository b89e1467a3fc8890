"""Calls that name no method, or ``"auto"``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import check_order
from hograd_core._unsupported import UnsupportedError
from hograd_core.arguments import ASKED, as_bytes, leaves
from hograd_core.auto._cache import entries
from hograd_core.auto._choice import Candidate, Choice, choose
from hograd_core.auto._identity import identity
from hograd_core.auto._probe import probed
from hograd_core.auto._rules import has_rule

_OURS = {"method", "probe", "repair", "verify", "strict", *ASKED}


def decides(operator: Any, how: Mapping[str, Any]) -> bool:
    """Whether a call leaves the method to this room: ``"auto"``, or none where a rule is.

    With ``in_dims`` or ``memory`` a call without a method takes one that can be vectorised, or computed in parts.
    """
    method = how.get("method")
    if method == "auto":
        return how.get("in_dims") is None
    return method is None and has_rule(operator.name) and how.get("in_dims") is None and how.get("memory") is None


def compute(operator: Any, arguments: tuple[Any, ...], how: Mapping[str, Any]) -> Any:
    """The result by the first candidate that PyTorch can compute, and the guard lets pass.

    Raises:
        UnsupportedError: none can; the message is the last one's. Other errors are those of the call.
    """
    *first, last = chosen(operator, arguments, how).candidates
    for candidate in first:
        try:
            return _by(operator, candidate, arguments, how)
        except UnsupportedError:
            continue
    return _by(operator, last, arguments, how)


def chosen(operator: Any, arguments: tuple[Any, ...], how: Mapping[str, Any]) -> Choice:
    """What :func:`compute` tries.

    Raises:
        TypeError, ValueError: the arguments do not fit the operator.
    """
    signature = operator.arguments
    bound = signature.bind(*arguments, **{k: v for k, v in how.items() if k in signature.parameters})
    bound.apply_defaults()
    order = check_order(bound.arguments["order"]) if operator.takes_order else None
    options = [name for name in how if name not in signature.parameters and name not in _OURS]
    if how.get("memory") is not None:
        options.append("chunk_size")  # computed in parts, whose size the limit decides
    tensors = [each for each in leaves(bound.arguments.get(operator.taking.point or "")) if isinstance(each, Tensor)]
    numel = sum(each.numel() for each in tensors)
    if how.get("method") is None or not tensors:
        return choose(operator, order, numel=numel, options=options)
    device = tensors[0].device
    choice = choose(
        operator,
        order,
        function=functools.cache(lambda: identity(bound.arguments[operator.taking.function or "f"])),
        numel=numel,
        dtype=str(tensors[0].dtype).removeprefix("torch."),
        device=device.type,
        threads=torch.get_num_threads(),
        known=entries(),
        memory=None if how.get("memory") is None else as_bytes(how["memory"], device),
        options=options,
    )
    if not how.get("probe"):
        return choice
    call = functools.partial(_by, operator, arguments=arguments, how=how)
    return probed(operator, order or operator.order, numel, choice, options, call)


def _by(operator: Any, candidate: Candidate, arguments: tuple[Any, ...], how: Mapping[str, Any]) -> Any:
    given = {} if how.get("memory") is not None else candidate.options
    asked = {name: value for name, value in how.items() if name not in ("method", "probe")}
    return operator(*arguments, **{**given, **asked, "method": candidate.method})
