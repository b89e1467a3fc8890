"""A function of tensors as a graph of aten operations."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental import proxy_tensor

from hograd_core.prepare.graphs._nodes import propagate

_LOCK = threading.RLock()


def record(
    function: Callable[..., Any], inputs: Sequence[Tensor], table: Mapping[Any, Any] | None = None, values: bool = True
) -> GraphModule:
    """Trace a function, and note what each node holds.

    Args:
        function: (*inputs) -> tensors.
        inputs: tensors of the shapes, dtypes and devices that the graph is for.
        table: operation -> its decomposition.
        values: note it (:func:`propagate`); False: a later pass does.
    """
    with _without_values():
        module = proxy_tensor.make_fx(function, decomposition_table=dict(table or {}))(*inputs)
    if values:
        propagate(module, inputs)
    return module


@contextmanager
def _without_values() -> Iterator[None]:
    """Have this thread's traces leave out what nodes hold: torch makes a mode for each node, a third of the time."""
    own, theirs = threading.get_ident(), getattr(proxy_tensor, "extract_val", None)

    def extract_val(value: Any, *given: Any, **named: Any) -> Any:
        if theirs is None or (threading.get_ident() == own and type(value) is Tensor):
            return None
        return theirs(value, *given, **named)

    with _LOCK, nullcontext() if theirs is None else changed(proxy_tensor, "extract_val", extract_val):
        yield


@contextmanager
def changed(where: Any, name: str, by: Callable[..., Any]) -> Iterator[None]:
    """Have another function under a name, within."""
    before = inspect.getattr_static(where, name)
    setattr(where, name, staticmethod(by) if isinstance(before, staticmethod) else by)
    try:
        yield
    finally:
        setattr(where, name, before)
