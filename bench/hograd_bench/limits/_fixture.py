"""The fixture ``hograd``: makes a call, and holds what it takes against the limits of the test."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from hograd_bench.limits._marks import FIGURES, Limits

if TYPE_CHECKING:
    from hograd_bench.limits._figures import Figures

TIME = "hograd_time"
"""Property of a test: what became of its limit of time."""
NOT_CHECKED = "not checked"
EXTRA = "install what it needs: pip install 'hograd[bench]'"


class Hograd:
    """The fixture: calls a function once for its result, and again to see what it takes.

    Attributes:
        figures: what the last call took.
    """

    figures: Figures

    def __init__(self, node: pytest.Item, limits: Limits) -> None:
        self._node = node
        self._limits = limits
        self._function: tuple[Any, ...] | None = None
        self.taken: list[Figures] = []

    def of(self, f: Callable[..., Any], x: Any, *more: Any) -> Hograd:
        """The fixture with the gradient of ``f(x, *more)`` in x as the unit of ``ops`` and ``time_gradients``.

        Args:
            f: returns a tensor of one element.
            x: a structure of tensors; or a module, in whose parameters the gradient is taken.
            *more: further arguments.
        """
        self._function = (f, x, *more)
        return self

    def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``fn(*args, **kwargs)`` and hold what it takes against the marks.

        It is called three times, from the same random numbers of torch and on one thread, and must do the same each
        time. The unit of ``ops`` and ``time_gradients`` is the gradient of what :meth:`of` named; else, where the
        arguments begin with a function and its point (``f, x, ...``), of that; else of fn itself in its first argument.

        Returns:
            What the first call returned.

        Raises:
            pytest.fail.Exception: it takes more than it may; the message says by which operators and phases.
            TypeError: it returns a coroutine or a generator, whose work is still to be done.
        """
        __tracebackhide__ = True
        from hograd_bench.limits import _figures, _verdict

        def call() -> Any:
            return fn(*args, **kwargs)

        gradient = None
        if self._limits.of_a_gradient:
            named = self._function or (args[:2] if len(args) > 1 and callable(args[0]) else (fn, *args))
            gradient = _figures.gradient_of(*named) if len(named) > 1 else None
            if gradient is None:
                raise TypeError(
                    "hograd: ops and time_gradients: got no arguments, so there is no function to take the gradient "
                    "of; name it: hograd.of(f, x)(fn, ...)"
                )
        if inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(
                f"hograd: got {_name(fn)}, which returns a coroutine or a generator: its work is done after the call; "
                "give a function that does it, such as lambda: asyncio.run(fn(x)) or lambda: list(fn(x))"
            )
        result, self.figures = _figures.take(call, gradient, _figures.device_of(args, kwargs))
        self.taken.append(self.figures)
        for name, figure in FIGURES.items():
            self._node.user_properties.append((f"hograd_{name}", getattr(self.figures, figure)))
        why = _verdict.over(self.figures, self._limits)
        if why:
            pytest.fail(f"{_name(fn)} is over its limits\n{why}")
        if gradient is not None and self._limits.time_gradients is not None:
            self._time(_name(fn), call, gradient, self._limits.time_gradients)
        return result

    def agree(self, functions: Sequence[Callable[..., Any]], /, *args: Any, to: float, **kwargs: Any) -> Any:
        """Call several functions with the same arguments, each once, and hold their results against the first's.

        Args:
            functions: two at least.
            *args, **kwargs: for each.
            to: bound on the difference, relative to the largest entry, for each tensor of the result.

        Returns:
            The first's result. Nothing is measured: a mark wants a call of the fixture beside this one.

        Raises:
            pytest.fail.Exception: one differs; the message says which, where, and by how much.
            ValueError: fewer than two functions, or no bound.
        """
        __tracebackhide__ = True
        if len(functions) < 2:
            raise ValueError(f"hograd.agree: got {len(functions)} functions, expected at least 2")
        if not to >= 0:
            raise ValueError(f"hograd.agree: to: got {to!r}, expected a relative bound >= 0, such as 1e-6")
        from hograd_bench.limits._agreement import disagreement

        expected, *others = (fn(*args, **kwargs) for fn in functions)
        differing = [
            f"{_name(fn)}: {why}"
            for fn, got in zip(functions[1:], others, strict=True)
            if (why := disagreement(expected, got, to))
        ]
        if differing:
            pytest.fail(f"not all agree with {_name(functions[0])}\n" + "\n".join(differing))
        return expected

    def _time(self, name: str, call: Callable[[], Any], gradient: Callable[[], Any], limit: float) -> None:
        __tracebackhide__ = True
        if not self._node.config.getoption("--hograd-time"):
            self._told(f"time_gradients={limit:g} was {NOT_CHECKED}; --hograd-time checks it")
            return
        from hograd_bench.limits import _times
        from hograd_bench.torch_state import threads

        try:
            with threads(1):
                timed = _times.judge(_times.ratios(call, gradient), limit)
        except ModuleNotFoundError as error:
            pytest.fail(f"--hograd-time: {error}; {EXTRA}")
        said = f"{timed.ratio:.3g} gradients, median of {timed.stretches} stretches of turns"
        self._told(f"time_gradients={limit:g} is {timed.verdict}: {said}")
        if timed.verdict == "over":
            pytest.fail(f"{name} is over its limits\ntime_gradients: takes {said}, allowed {limit:g}")

    def _told(self, what: str) -> None:
        self._node.user_properties.append((TIME, what))


def _name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__qualname__", None) or repr(fn)
