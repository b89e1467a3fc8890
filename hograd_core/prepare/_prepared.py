"""An operator made ready for many calls, with the guards that keep it from ever being wrong."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hograd_core import _entrance
from hograd_core._checks import innermost
from hograd_core._differences import VerificationError
from hograd_core.prepare._agreement import NOT_FINITE, compared, disagreement, nearby, times
from hograd_core.prepare._bound import Bound, Halves, halves_of
from hograd_core.prepare._build import Kernel, build, ladder
from hograd_core.prepare._coloured import maker
from hograd_core.prepare._state import State
from hograd_core.prepare._task import Task
from hograd_core.prepare.inductor import _compile

_MOST_KINDS = 8
_MOST_TRACES = 16
_STATE = _entrance._STATE


class Entry:
    """A kernel for one kind of inputs, and what has to hold for it to be used.

    Attributes:
        kernel: what runs.
        matches: a quick sign that tensors (inputs and lifted ones) are of the kinds that the kernel is for, and that no
            mode of PyTorch is on that was not when it was made.
        graded: whether a tensor of f requires gradients, so that they have to be off; those of inputs never match.
        state: what f referred to when it was traced.
        halves: of the kernel, for bound products, by the number of rows (None: one, without a dimension).
    """

    __slots__ = ("_kinds", "graded", "halves", "kernel", "lifted", "matches", "run", "state")

    def __init__(self, kernel: Kernel, inputs: Sequence[Tensor], state: State) -> None:
        self.kernel, self.run, self.lifted = kernel, kernel.run, kernel.lifted
        self.state = state
        self.graded = any(t.requires_grad for t in kernel.lifted)
        self.halves: dict[int | None, Halves | None] = {}
        self._kinds = _kinds(kernel.lifted)
        with torch.no_grad():
            self.matches = _compile.tensor_guard([*inputs, *kernel.lifted])

    def still(self, *tensors: Tensor) -> bool:
        """Whether the kernel is one for these tensors (inputs and lifted ones), and f what it was: in little time."""
        try:
            return self.matches(*tensors) and self.state.still()
        except TypeError:  # something is no tensor, which the operator says
            return False

    def holds(self) -> bool:
        """Whether what f refers to is as it was when the kernel was made."""
        return self.state.holds() and _kinds(self.lifted) == self._kinds


class Prepared:
    """An operator of one function, ready to be called many times; made by :func:`prepare`.

    Calls may come from several threads. Other shapes, dtypes or devices, and changes of what f refers to, make a new
    kernel by themselves; updates of tensors in place, or of ``.data``, are seen without one.

    Attributes:
        seconds: what preparing took, so far.
        traces: how many kernels were made.
    """

    _bound: type[Bound] = Bound

    def __init__(self, task: Task, preparation: str, check_every: int | None) -> None:
        self._task = task
        self._asked = preparation
        self._every = check_every
        self._calls = self._changes = self._again = 0
        self._kinds: set[Any] = set()
        self._lock = threading.RLock()
        self._entries: OrderedDict[Any, Entry] = OrderedDict()
        self._entry: Entry | None = None
        self._closed = False
        self.seconds = 0.0
        self.traces = 0

    @property
    def preparation(self) -> str:
        """How the latest kind of inputs runs: "eager" where nothing else is right, or possible."""
        return "eager" if self._entry is None else self._entry.kernel.preparation

    @property
    def operations(self) -> dict[str, int] | None:
        """Operations of the graph of the latest kind of inputs, by name; None: there is none."""
        return None if self._entry is None else dict(self._entry.kernel.operations) or None

    @property
    def peak_bytes(self) -> int | None:
        """The most bytes that its values take at once, its result included, as the graph tells; None: no graph."""
        return None if self._entry is None or not self._entry.kernel.operations else self._entry.kernel.peak

    @property
    def reason(self) -> str | None:
        """Why it does not run as it was asked for; None: it does."""
        return None if self._entry is None else "; ".join(self._entry.kernel.reasons) or None

    def __call__(self, *given: Tensor, args: Sequence[Tensor] = ()) -> Tensor:
        """The operator of (x, *directions), with further arguments of f.

        Args:
            *given: x; and v for a product. Shapes as the operator takes them.
            args: further arguments of f, tensors: a new batch of the same shapes costs no new trace.

        Returns:
            As the operator: a detached tensor of its own memory. Inside a larger derivative the eager method runs.

        Raises:
            RuntimeError: it was closed.
            TypeError, ValueError, UnsupportedError: as the operator.
            VerificationError: with ``check_every``, it differs from the eager method.
        """
        entry = self._entry
        if entry is None or entry.run is None or _STATE.evaluating or self._every is not None:
            return self._slowly(given, args)
        tensors = [*given, *args, *entry.lifted]
        grad = entry.graded and torch.is_grad_enabled()
        if grad:
            torch._C._set_grad_enabled(False)
        try:
            if entry.still(*tensors):
                return entry.run(tensors)
        finally:
            if grad:
                torch._C._set_grad_enabled(True)
        return self._slowly(given, args)

    of_tensors = __call__

    def _slowly(self, given: Sequence[Tensor], args: Sequence[Tensor]) -> Tensor:
        """All that a call may need beside running a kernel."""
        self.require_open()
        if _STATE.evaluating or _entrance.in_transform():
            return self._task.eager(*given, *args)
        tensors, entry = self.entry_for(given, args)
        if entry.run is None:
            return self._task.eager(*tensors)
        with _entrance.entered(), torch.no_grad():
            result = entry.run([*tensors, *entry.lifted])
        if self._every is not None:
            self._calls += 1
            if self._calls % self._every == 0:
                self._check(tensors, result)
        return result

    def require_open(self) -> None:
        """Raise where it was closed."""
        if self._closed:
            raise RuntimeError("prepared: it was closed; prepare again")

    def entry_for(self, given: Sequence[Tensor], args: Sequence[Tensor]) -> tuple[list[Tensor], Entry]:
        """The tensors of a call, plain, and what runs on them; made if there is none."""
        self.require_open()
        with _entrance.entered():
            tensors = self._task.checked(given, args)
        kind = _kinds(tensors), len(args), _modes()
        with self._lock:
            entry = self._entries.get(kind)
            if entry is None or not entry.holds():
                self._changes += entry is not None
                self._again += entry is None and kind in self._kinds
                self._kinds.add(kind)
                entry = self._entries[kind] = self._made(tensors, len(args))
                while len(self._entries) > _MOST_KINDS:
                    self._entries.popitem(last=False)
            self._entries.move_to_end(kind)
            self._entry = entry
        return tensors, entry

    def _made(self, tensors: list[Tensor], count: int) -> Entry:
        started = time.perf_counter()
        moved, args = tensors[: len(tensors) - count], tensors[len(tensors) - count :]
        refused = self._refused_nearby(moved, args)
        self.traces += 1
        if self._asked == "eager":
            kernel = Kernel()
        elif refused is not None:
            kernel = Kernel(reasons=[f"near x, where kernels are compared with the eager method, {refused}"])
        elif self._changes > _MOST_TRACES:
            kernel = Kernel(reasons=[f"what f refers to changed {_MOST_TRACES} times: each change needs a new trace"])
        elif self._again > _MOST_TRACES:
            kernel = Kernel(
                reasons=[f"inputs of more than {_MOST_KINDS} kinds take turns; kernels of so many are kept"]
            )
        else:
            kernel = build(
                maker(self._task, tensors),
                ladder(self._asked, tensors[0].device.type),
                lambda run: disagreement(self._task, run, moved, args),
            )
        with _entrance.entered():
            entry = Entry(kernel, tensors, State(self._task.f))
        self.seconds += time.perf_counter() - started
        return entry

    def _refused_nearby(self, moved: Sequence[Tensor], args: Sequence[Tensor]) -> str | None:
        """What the eager method raises near x alone, as where x is at the end of what f takes; None: nothing.

        Raises:
            Exception: what f itself does wrong, and what the operator refuses.
        """
        witness = self._task.product if self._task.is_matrix else self._task

        def witnessed(at: Sequence[Tensor]) -> None:
            witness.eager(*at, *([torch.ones_like(at[0])] if self._task.is_matrix else []), *args)

        try:
            witnessed(nearby(moved))
        except Exception as error:
            witnessed(moved)
            return _compile.told(error)
        return None

    def _check(self, tensors: list[Tensor], result: Tensor) -> None:
        def comparable(found: Tensor) -> Tensor:
            return times(found, torch.ones_like(tensors[0])) if self._task.is_sparse else found

        why = compared(lambda *at: comparable(self._task.eager(*at)), comparable(result), tensors, ())
        if why is not None and why is not NOT_FINITE:
            self._entries.clear()
            self._entry = None
            raise VerificationError(
                f"prepared {self._task.operator.name}: {why}; f changed by something that cannot be seen, so that "
                f"results of the last {self._every} calls may be wrong"
            )

    def bind(self, x: Tensor, *, args: Sequence[Tensor] = ()) -> Bound:
        """What depends on x alone, computed once; for many directions v.

        Args:
            x: the point; it is referred to, and what it holds when a product is taken counts.
            args: further arguments of f, likewise.

        Returns:
            v -> the product; V, in_dims=0 -> a product for each v along dimension 0.

        Raises:
            TypeError: the operator takes no direction.
        """
        if self._task.directions != 1:
            raise TypeError(f"bind: {self._task.operator.name} takes no direction; call it")
        return self._bound(self, self._task, x, tuple(args))

    def halves(self, entry: Entry, tensors: Sequence[Tensor], rows: int | None) -> Halves | None:
        """The two halves of a kernel, made where they are not there yet; None: they cannot be had."""
        with self._lock:
            if rows not in entry.halves:
                started = time.perf_counter()
                kernel = entry.kernel
                while len(entry.halves) >= _MOST_KINDS:
                    entry.halves.pop(next(iter(entry.halves)))
                entry.halves[rows] = None if kernel.trace is None else halves_of(self._task, kernel, tensors, rows)
                self.seconds += time.perf_counter() - started
            return entry.halves[rows]

    def is_product_of(self, f: Callable[..., Tensor]) -> bool:
        """Whether it is the Hessian-vector product of this function, wrapped or not."""
        return self._is_of("derivative_vector_product", f)

    def is_hessian_of(self, f: Callable[..., Tensor]) -> bool:
        """Whether it is the Hessian of this function, wrapped or not."""
        return self._is_of("derivative_tensor", f)

    def _is_of(self, operator: str, f: Callable[..., Tensor]) -> bool:
        task = self._task
        is_second = task.operator.name == operator and task.options["order"] == 2
        return is_second and innermost(task.f) is innermost(f)

    def is_open(self) -> bool:
        """Whether it was not closed."""
        return not self._closed

    def explain(self) -> str:
        """In lines: what runs for each kind of inputs, why, what the graph holds, and what is watched."""
        lines = [f"{self._task.operator.name}, asked for: {self._asked}; {self.traces} traces, {self.seconds:.2g} s"]
        for kind, entry in self._entries.items():
            kernel = entry.kernel
            shapes = ", ".join(f"{tuple(shape)} {str(dtype).removeprefix('torch.')}" for shape, dtype, *_ in kind[0])
            lines.append(f"{shapes}: {kernel.preparation}")
            lines += [f"  not {reason}" for reason in kernel.reasons]
            lines += [f"  without {what}" for what in kernel.without]
            if kernel.operations:
                total = sum(kernel.operations.values())
                most = ", ".join(f"{n} {name.removeprefix('aten.')}" for name, n in kernel.operations.most_common(6))
                lines.append(f"  {total} operations: {most}")
                lines.append(f"  {len(kernel.lifted)} tensors of f are inputs: their updates are seen")
            if not entry.state.whole:
                lines.append("  f refers to more than is watched: use check_every=")
        return "\n".join(lines)

    def __reduce_ex__(self, _: Any) -> Any:
        """Refuse to be copied or pickled."""
        raise TypeError("prepared: a kernel belongs to its process and its function; prepare again where it is needed")

    def close(self) -> None:
        """Let go of all kernels; later calls raise."""
        with self._lock:
            self._closed = True
            self._entries.clear()
            self._entry = None


def _kinds(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    return tuple((t.shape, t.dtype, t.device, t.stride(), t.is_conj(), t.is_neg()) for t in tensors)


def _modes() -> tuple[Any, ...]:
    on = [d for d in _entrance._DEVICE_TYPES if torch.is_autocast_enabled(d)]
    return tuple((d, torch.get_autocast_dtype(d)) for d in on), _STATE.autocast, torch.get_default_dtype()
