"""``verify``: whether a function can be differentiated k times, by which modes, and which operator is at fault if not.

For people's own derivatives (a ``torch.autograd.Function``, a custom operator) as well as for PyTorch's: what
``torch.autograd.gradgradcheck`` answers with yes or no, explained.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from hograd_core._checks import Function, ScalarFunction, check_order, check_point, scalar_function
from hograd_core._differences import VerificationError, probe, slope
from hograd_core._entrance import entrance, unguarded
from hograd_core._registry import resolve
from hograd_core._unsupported import UnsupportedError
from hograd_core.arguments import _tree, point_of

_FIRST = (("reverse", "gradient", "autograd"), ("forward", "directional_derivative", "nested_jvp"))
_HIGHER = (
    ("reverse over reverse", "derivative_vector_product", "double_backward"),
    ("forward over reverse", "derivative_vector_product", "jvp_of_grad"),
    ("reverse over forward", "derivative_vector_product", "grad_of_jvp"),
    ("forward over forward", "directional_derivative", "nested_jvp"),
)


@dataclass(frozen=True)
class Finding:
    """What one mode of differentiation makes of a function at one order.

    Attributes:
        order: derivative order.
        mode: nesting of modes, outermost first.
        method: operator and method of hograd that computes so.
        status: ``right``, ``wrong``, ``unsupported`` or ``in doubt`` (differences at two steps disagree).
        error: relative error along random directions, or None.
        reason: why, where the status is not ``right``.
        operators: the operators of f that are wrong by themselves in this mode, at the values they met.
    """

    order: int
    mode: str
    method: str
    status: str
    error: float | None = None
    reason: str = ""
    operators: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line."""
        how_far = "" if self.error is None else f" (error {self.error:.2g})"
        at_fault = f", at fault: {', '.join(self.operators)}" if self.operators else ""
        why = f": {self.reason}" if self.reason else ""
        return f"order {self.order}, {self.mode} [{self.method}]: {self.status}{how_far}{at_fault}{why}"


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found; its text is a line for each order and mode."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; what is unsupported or in doubt is not wrong."""
        return all(finding.status != "wrong" for finding in self.findings)

    def __str__(self) -> str:
        """A line a finding."""
        return "\n".join(map(str, self.findings))


@entrance
def verify(f: Function[Any], x: Any, order: int = 2, *, args: tuple[Any, ...] = (), check: bool = True) -> Verification:
    """Hold the derivatives of f, up to an order and in every mode, against differences of the order below.

    Where a mode is wrong, every operator of f is tried by itself on the values it met, so that the ones at fault are
    named. Differences are taken in float64 where f takes float64.

    Args:
        f: function of x and ``args``, returning a 0-dimensional tensor.
        x: the point, a tensor or a structure of tensors of one real floating dtype; f should be smooth there.
        order: the highest order, >= 1; at most 3, beyond which differences say too little.
        args: what f takes after x, not differentiated.
        check: raise where something is wrong; False: only report.

    Returns:
        The findings by order and mode. Cost: about 20 gradients of f an order, and where something is wrong as much
        for each operator of f.

    Raises:
        VerificationError: a derivative is wrong; the message says which order, mode and operator.
        TypeError, ValueError: an argument is wrong; the message names it.
    """
    order = check_order(order, maximum=3)
    f, x, packed = point_of(f, x, args)
    if packed is not None:
        packed.refuse_mixed("verify")
    g, point = scalar_function(f), check_point(x)
    findings = []
    with unguarded():
        for k in range(1, order + 1):
            for mode, operator, method in _FIRST if k == 1 else _HIGHER:
                finding = _find(g, point, k, mode, operator, method)
                if finding.status == "wrong":
                    finding = Finding(
                        *(k, mode, finding.method, "wrong", finding.error),
                        operators=_at_fault(g, point, k, operator, method),
                    )
                findings.append(finding)
    result = Verification(tuple(findings))
    if check and not result.ok:
        raise VerificationError("\n".join(str(finding) for finding in findings if finding.status == "wrong"))
    return result


def _find(f: ScalarFunction, x: Tensor, order: int, mode: str, operator: str, method: str) -> Finding:
    v, u = probe(x, 1), probe(x, 2)
    name = f"{operator}[{method}]"
    kernel = resolve(operator)[0].methods[method].function
    try:
        result = kernel(f, x) if operator == "gradient" else kernel(f, x, v, order=order)
    except (UnsupportedError, RuntimeError) as error:
        return Finding(order, mode, name, "unsupported", reason=str(error).splitlines()[0])
    into = v if operator == "directional_derivative" else u if order == 1 else None
    got = result.double() if into is None or into is v else (result.double() * u.double()).sum()
    true = slope(f, x, v, order, into, float(torch.linalg.vector_norm(got)))
    deviation = true.error(got)
    if deviation <= true.allowed:
        return Finding(order, mode, name, "right", deviation)
    if not true.known:
        return Finding(order, mode, name, "in doubt", reason="differences at two steps disagree; f is not smooth at x")
    return Finding(order, mode, name, "wrong", deviation)


class _Recorder(TorchFunctionMode):
    """Keeps every call of torch that works on a tensor which depends on x."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def keep(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note a call with the values it meets."""
        if any(isinstance(t, Tensor) and t.requires_grad for t in _tree.leaves((args, kwargs))):
            self.calls.append((name, function, args, kwargs))

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note the call, then make it."""
        self.keep(resolve_name(func) or getattr(func, "__name__", "?"), func, tuple(args), kwargs or {})
        return func(*args, **(kwargs or {}))


_PATCHING = threading.Lock()


@contextlib.contextmanager
def _recording_custom(recorder: _Recorder) -> Iterator[None]:
    """Note calls of custom autograd.Functions too, which torch's function modes do not see."""
    function: Any = torch.autograd.Function
    original = function.__dict__["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        bound = original.__get__(None, cls)
        recorder.keep(cls.__qualname__, bound, args, kwargs)
        return bound(*args, **kwargs)

    with _PATCHING:
        function.apply = classmethod(apply)
        try:
            yield
        finally:
            function.apply = original


def _at_fault(f: ScalarFunction, x: Tensor, order: int, operator: str, method: str) -> tuple[str, ...]:
    """Names of the operators of f that are wrong by themselves, each once, in the order of their calls."""
    recorder = _Recorder()
    with recorder, _recording_custom(recorder):
        f(x.detach().requires_grad_())
    wrong = []
    for name, function, args, kwargs in recorder.calls:
        if name in wrong:
            continue
        try:
            # Linear in the results, so that nothing else is tried; then bent, so that cotangents vary too.
            for bend in (lambda t: t, lambda t: t * t * t):
                alone, point = _alone(function, args, kwargs, bend)
                if name not in wrong and _find(alone, point, order, "", operator, method).status == "wrong":
                    wrong.append(name)
        except Exception:
            continue
    return tuple(wrong)


def _alone(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], bend: Callable[[Tensor], Tensor]
) -> tuple[ScalarFunction, Tensor]:
    """One call as a scalar function of all its tensors that depend on x, and the point it was made at."""
    leaves, structure = _tree.flatten((args, kwargs))
    moving = [i for i, t in enumerate(leaves) if isinstance(t, Tensor) and t.requires_grad]
    fixed = [t.detach().clone() if isinstance(t, Tensor) else t for t in leaves]
    shapes = [fixed[i].shape for i in moving]

    def scalar(z: Tensor) -> Tensor:
        parts = torch.split(z, [shape.numel() for shape in shapes])
        values = [*fixed]
        for i, part, shape in zip(moving, parts, shapes, strict=True):
            values[i] = part.reshape(shape)
        called, named = _tree.unflatten(values, structure)
        outputs = [t for t in _tree.leaves(function(*called, **named)) if isinstance(t, Tensor)]
        real = [torch.view_as_real(t) if t.is_complex() else t for t in outputs]
        return torch.stack([(bend(t) * probe(t, 3)).sum() for t in real if t.is_floating_point()]).sum()

    return scalar, torch.cat([fixed[i].reshape(-1) for i in moving])
