"""What other packages register with the suite: by an entry point of theirs, or by one call.

An entry point of the group :data:`GROUP` names a module whose import registers methods, operators or problems; it is
loaded in every process in which cells are made, wherever the package is installed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import hograd_core
from hograd_core._registry import method as _method

GROUP = "hograd"
Kernel = TypeVar("Kernel", bound=Callable[..., Any])


@functools.cache
def load() -> None:
    """Import the modules that installed packages name; one that cannot be imported is left out with a warning."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:  # whatever somebody else's module raises, it is named with the entry point
            whose = entry.dist.name if entry.dist is not None else "an unknown distribution"
            warnings.warn(
                f"entry point {entry.name!r} of {whose}: {entry.value} cannot be imported, so what it registers is "
                f"missing: {type(error).__name__}: {error}",
                stacklevel=2,
            )


def method(
    operator: str, name: str | None = None, *, mode: str = "unknown", source: str = "yours", **capabilities: Any
) -> Callable[[Kernel], Kernel]:
    """Register the decorated function as a method of an operator, to be compared with hograd's own.

        @hograd_bench.method("hessian")
        def my_hessian(f, x): ...

    Args:
        operator: its name or an alias. An alias fixes the order, which the function is then not given; a family's
            function takes it as the keyword ``order``.
        name: of the method; None: that of the function.
        mode: the differentiation modes in words, outermost first ("forward over reverse"); decides which of PyTorch's
            faults are looked for.
        source: where it is from.
        **capabilities: see :class:`hograd_core.Method`.

    Returns:
        A decorator that leaves the function as it is. Its keyword-only arguments become options of the operator.

    Raises:
        ValueError: no such operator, or it has a method of that name.
    """
    record, order = hograd_core.resolve(operator)
    if order is not None:
        capabilities = {"min_order": order, "max_order": order, **capabilities}

    def register(function: Kernel) -> Kernel:
        kernel: Callable[..., Any] = function
        if order is not None and record.takes_order:

            @functools.wraps(function)
            def kernel(*arguments: Any, order: int, **options: Any) -> Any:
                return function(*arguments, **options)

        _method(record, name or function.__name__, mode=mode, source=source, **capabilities)(kernel)
        return function

    return register
