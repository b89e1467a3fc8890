"""What must be known of a target before cells of it can be planned; a function of a child process."""

from __future__ import annotations

import contextlib
import functools
import re
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import hograd_core
from hograd_bench.metrics.time import fastest
from hograd_bench.targets import _signs
from hograd_bench.targets._load import Loaded, Target, TargetError, load
from hograd_bench.targets._request import Request
from hograd_core.arguments import as_bytes
from hograd_core.auto import choose, identity

_FRAMES = 40
_OURS = (Path(hograd_core.__file__).parent, Path(__file__).parents[1])
_LAW_SIZES = 6
"""Enough for a law of degree 3 with a size held out, or of degree 2 with one that lies below its range."""
_FAR = 8
"""Times its size at which a target is foretold where nobody asks for another."""
_SECONDS = 0.05
"""How long a call is repeated for its time, which only plans go by."""


def describe(given: Mapping[str, Any] | Target, memory: str | int = "free", seconds: float = 10.0) -> dict[str, Any]:
    """Load a target and look at it.

    Args:
        given: what :meth:`Request.to_json` made, or the target itself.
        memory: the limit that advice has to keep to; "free": what is free on the device of x.
        seconds: after which nothing more is looked for.

    Returns:
        JSON-ready. ``error``: why it cannot be differentiated at all, with ``traceback``, the way to where
        somebody else's code raised ("" where none did), in which case nothing else is there; ``numel``,
        ``shape``, ``leaves``, ``dtype``, ``device`` of x; ``form``, "f", "pair", "example" or "module", whether
        it is made by a call (``called``) and whether f takes more than x (``has_args``); ``parameter`` and
        ``n``, its size, and ``law_sizes``; ``gradient_seconds``, ``hvp_seconds`` (None: not to be had);
        ``memory`` in bytes; ``operators`` with their methods; ``function``, its identity; ``signs``, what a
        reader should know.
    """
    request = given.request if isinstance(given, Target) else Request.from_json(given)
    try:
        return _described(given if isinstance(given, Target) else load(request), memory, time.monotonic() + seconds)
    except Exception as error:  # whatever somebody else's code raises
        if isinstance(error, TargetError):
            return {"error": str(error), "traceback": ""}
        return {"error": _told(request, error), "traceback": _theirs(error)}


def _theirs(error: Exception) -> str:
    """The traceback without what hograd does on the way to the code that was given, or within it."""
    told = traceback.TracebackException.from_exception(error, limit=-_FRAMES)
    told.__cause__ = told.__context__ = None
    theirs = [
        frame
        for frame in told.stack
        if not frame.filename.startswith("<frozen") and not any(Path(frame.filename).is_relative_to(o) for o in _OURS)
    ]
    told.stack = traceback.StackSummary.from_list(theirs)
    return "".join(told.format()) if theirs else ""


def _told(request: Request, error: Exception) -> str:
    said = str(error).strip().splitlines()
    remedy = next((f"; {remedy}" for pattern, remedy in _REMEDIES if re.search(pattern, str(error))), "")
    if not remedy and request.shape is not None:
        remedy = f"; x was a tensor of shape {request.shape}: is that --shape what it expects?"
    what = said[0].rstrip(".") if said else "no message"
    return f"{request.target} cannot be differentiated: {type(error).__name__}: {what}{remedy}"


_REMEDIES = (
    (
        r"leaf Variable that requires grad is being used in an in-place",
        "f changes x in place: work on a copy, x = x.clone() as its first line",
    ),
    (
        r"modified by an inplace operation",
        "f overwrites a value that its backward pass needs: take the operation that returns a new tensor (y + 1, not "
        "y.add_(1))",
    ),
    (r"Can't call numpy\(\)", "numpy cuts f off the graph: write f with operations of torch"),
    (
        r"same dtype|expected scalar type|found dtype|dtype mismatch",
        "f's own tensors are of another dtype than x: give --dtype, or make x in theirs",
    ),
)
"""What to do about errors of torch that do not say it."""


def _described(target: Target, memory: str | int, deadline: float) -> dict[str, Any]:
    n = target.size
    made = target.at(n)
    try:
        budget = as_bytes(memory, made.x.device)
    except ValueError as error:
        raise TargetError(str(error)) from None
    hograd_core.gradient(made.f, made.x)  # f must at least have one; an error of f is f's own
    gradient = fastest(lambda: hograd_core.gradient.unguarded(made.f, made.x), _SECONDS, least=2)
    return {
        "numel": made.x.numel(), "shape": list(made.x.shape), "leaves": list(made.leaves),
        "dtype": str(made.x.dtype).removeprefix("torch."), "device": made.x.device.type, "form": made.form,
        "has_args": made.has_args, "called": callable(target.named) and made.form != "f",
        "parameter": target.parameter, "n": n, "law_sizes": _law_sizes(target, n), "gradient_seconds": gradient,
        "hvp_seconds": _seconds_of_hvp(made), "memory": budget, "torch": torch.__version__,
        "function": identity(made.f if made.extras else made.owner), "threads": 1,
        "operators": {o.name: _operator(o) for o in hograd_core.operators().values()},
        "signs": [sign.to_json() for sign in _signs.signs(made, deadline)],
    }  # fmt: skip


def _operator(operator: hograd_core.Operator) -> dict[str, Any]:
    return {
        "first": [c.method for c in choose(operator, 2 if operator.takes_order else None).candidates],
        "order": operator.order, "inputs": list(operator.inputs),
        "aliases": dict(operator.aliases), "result": operator.result,
        "methods": [
            {"name": m.name, "mode": m.mode, "exact": m.exact, "min_order": m.min_order, "max_order": m.max_order,
             "options": list(m.options)}
            for m in operator.methods.values()
        ],
    }  # fmt: skip


def law_sizes(n: int) -> list[int]:
    """Sizes that laws are solved on and held out from: small, and evenly spaced by an even step, as heads need it.

    The last is about eight times n: a peak moves to another place where n passes a size that does not grow.
    """
    step = max(2, min(n // 8, 8 + n // 64, 32) // 2 * 2)
    return [*((i + 2) * step for i in range(_LAW_SIZES)), max(_FAR * n // step, _LAW_SIZES + 2) * step]


def _law_sizes(target: Target, n: int) -> list[int]:
    """Those at which the target exists; none where it has no size, or the first two do not work."""
    if target.parameter is None:
        return []
    sizes = law_sizes(n)
    for size in sizes[:2]:
        try:
            made = target.at(size)
            hograd_core.gradient(made.f, made.x)
        except Exception:  # whatever somebody else's code raises
            return []
    return sizes


def _seconds_of_hvp(made: Loaded) -> float | None:
    """Of the first way there is."""
    v, product = torch.ones_like(made.x), hograd_core.derivative_vector_product.unguarded
    for method in ("double_backward", "jvp_of_grad"):
        with contextlib.suppress(RuntimeError, ValueError, TypeError, ArithmeticError):
            return fastest(functools.partial(product, made.f, made.x, v, 2, method=method), _SECONDS, least=2)
    return None
