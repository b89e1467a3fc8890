"""A module as a function of its tensors: called with others in their place, itself never touched.

``torch.func.functional_call`` swaps the tensors of the module for the length of the call. That is wrong where a part of
the forward pass runs again later (a checkpoint recomputes in the backward pass, with the module's own weights by then),
and where two threads call one module. Here every call gets a light copy of the module tree instead: new module objects
of the same classes that share everything but the tensors given, and what leads to them (:mod:`._reach`). A graph that
needs them again keeps them alive.

What leads to the module by a way that cannot be copied, such as a global variable, is found in the graph of the first
result, and refused.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hograd_core._entrance import unwatched
from hograd_core._reach import Copier
from hograd_core._unsupported import UnsupportedError
from hograd_core.arguments import _tree
from hograd_core.hazards import _graph

Values = Mapping[str, Tensor]
Hooks = Mapping[str, Callable[..., Any]]


class Functional:
    """A module whose parameters and buffers are arguments.

    The copies share all else with the module: flags such as ``training`` are those of the time of the call. What a
    forward pass writes to its module (a counter, a cache, running statistics) is written to the copy and dropped.
    Thread-safe: nothing shared is written. Making one walks the tree once; a call costs less than functional_call.

    Args:
        module: any nn.Module that Python code runs; a part compiled by torch.compile runs in its eager form.
        *others: what else may refer to the module (a loss): :meth:`evaluate` gives it the copy to refer to.

    Raises:
        TypeError: the module cannot be called with other tensors; the message says why, and what to pass instead.
        ValueError: it is called in a block that keeps weights between calls, or writes into its own weights.
    """

    def __init__(self, module: nn.Module, *others: Any) -> None:
        self._roots = (module, *others)
        self._seen: set[str] = set()
        self._wide = False
        self._plan()

    def _plan(self) -> None:
        module: nn.Module = self._roots[0]
        _refuse(module)
        self._modules = list(module.modules())
        self._named = dict(module.named_modules(remove_duplicate=False))
        self._own = [*module.parameters(), *module.buffers()]
        self._copier = Copier(self._roots, (*self._modules, *self._own))
        self._shape = self._fingerprint()

    def _fingerprint(self) -> int:
        """A number that changes where attributes, hooks or submodules come or go."""
        total = 0
        for module in self._modules:
            state = module.__dict__
            total += len(state) + len(state["_modules"]) + len(state["_parameters"]) + len(state["_buffers"])
            total += len(state["_forward_hooks"]) + len(state["_forward_pre_hooks"])
        return total

    def in_float64(self) -> Functional:
        """The same with the module's own tensors, where they are used, in float64."""
        wide = copy.copy(self)
        wide._wide = True
        return wide

    def _original(self, name: str) -> Tensor:
        path, _, key = name.rpartition(".")
        module = self._named[path]
        found: Any = module._parameters[key] if key in module._parameters else module._buffers[key]
        assert isinstance(found, Tensor)
        return found

    def _bound(self, values: Values, hooks: Hooks) -> tuple[Any, ...]:
        if nn.utils.parametrize._cache_enabled:
            raise ValueError(
                "module: got a call inside parametrize.cached(), which keeps weights between calls; leave that block"
            )
        if self._fingerprint() != self._shape:
            self._plan()
        memo: dict[int, Any] = {id(self._original(name)): value for name, value in values.items()}
        for one in self._modules:
            for p in one._parameters.values():
                # Autograd cannot save what was made in inference mode.
                if p is not None and (p.is_inference() or self._wide) and id(p) not in memo:
                    memo[id(p)] = _wide(p) if self._wide else p.clone()
            for b in one._buffers.values():
                if b is not None and id(b) not in memo:
                    memo[id(b)] = _wide(b) if self._wide else b.clone()
        copies = self._copier.copies(memo)
        for name, hook in hooks.items():
            made = memo[id(self._named[name])]
            made._forward_hooks = OrderedDict({**made._forward_hooks, "hograd": hook})
        return copies

    def __call__(
        self,
        values: Values,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        *,
        hooks: Hooks | None = None,
    ) -> Any:
        """What the module returns for ``args``, with these tensors in place of its own.

        Args:
            values: by a name of each, as in ``named_parameters()`` and ``named_buffers()``; a tied tensor is replaced
                under all its names. Parameters not named stay the module's; buffers not named are cloned.
            args: positional arguments of the module.
            kwargs: its keyword arguments.
            hooks: forward hooks for this call, by the name of the submodule.

        Raises:
            ValueError: as :meth:`evaluate`.
        """
        named = kwargs or {}
        return self.evaluate(values, lambda module, *_: module(*args, **named), (args, named), hooks or {})

    def evaluate(
        self,
        values: Values,
        body: Callable[..., Any],
        inputs: Any = (),
        hooks: Hooks | None = None,
        *,
        what: str = "module",
    ) -> Any:
        """``body(module, *others)`` of the copies.

        Args:
            values: as in a call.
            body: what to compute.
            inputs: what else it takes, nested; the graphs behind it are its own business.
            hooks: as in a call.
            what: a name for what is computed, by which its first result is looked at once.

        Raises:
            ValueError: the result hangs on a parameter of the module that was to be replaced.
            UnsupportedError: a reentrant checkpoint hides parameters from autograd.
        """
        copies = self._bound(values, hooks or {})
        if what in self._seen or unwatched() or torch.is_inference_mode_enabled():
            return body(*copies)
        # Without a graph nothing can be seen: the first call records one, even under no_grad.
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            result = body(*copies)
        reached = self._refuse_own(result, values, inputs)
        live = [v for v in values.values() if any(level.requires_grad for level in _graph.levels(v))]
        if any(not _graph.hangs_on(reached, v) for v in live):
            with _Checkpoints():
                body(*self._bound(values, {}))
        if live:
            self._seen.add(what)
        return result if recorded else _tree.detached(result)

    def _refuse_own(self, result: Any, values: Values, inputs: Any) -> set[Any]:
        """Raise where a result hangs on a parameter that was to be replaced; return the nodes of its graph."""
        given = [t for t in _tree.leaves((list(values.values()), inputs)) if isinstance(t, Tensor)]
        behind = set(_graph.recorded(given))
        replaced = {id(self._original(name)): name for name in values}
        for t in given:
            replaced.pop(id(t), None)
        found = _graph.nodes([root for root in _graph.recorded(result) if root not in behind], behind)
        for leaf in _graph.leaves(found):
            if id(leaf) in replaced:
                raise ValueError(
                    f"module: its own parameter {replaced[id(leaf)]!r} is used, not the one that it is called with, "
                    "through a global variable or an object that cannot be copied, so that derivatives would miss it; "
                    "in forward use self, in the loss a closure over the module or one of its methods"
                )
        reached = {before for node in found for before, _ in node.next_functions if before is not None}
        return found | reached | set(_graph.recorded(result))


class _Checkpoints(TorchFunctionMode):
    """Raises inside a reentrant checkpoint: where none of its inputs requires grad, what it uses gets no gradient."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer one call of torch's public functions."""
        checkpoint = sys.modules.get("torch.utils.checkpoint")
        if checkpoint is not None and not torch.is_grad_enabled():
            frame: Any = sys._getframe(1)
            while frame is not None:
                if frame.f_code is checkpoint.CheckpointFunction.forward.__code__:
                    raise UnsupportedError(
                        "module",
                        "reentrant checkpoint: of inputs that do not require grad it leaves out the gradients of the "
                        "parameters it uses; checkpoint with use_reentrant=False",
                    )
                frame = frame.f_back
        return func(*args, **(kwargs or {}))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64, copy=True) if tensor.dtype.is_floating_point else tensor.clone()


def _refuse(module: nn.Module) -> None:
    """Raise where a module cannot be called with other tensors."""
    for part in module.modules():
        kind = type(part).__name__
        if isinstance(part, torch.jit.ScriptModule):
            # Frozen, it is a constant.
            if any(p.requires_grad for p in part.parameters()) or (part.training and any(True for _ in part.buffers())):
                raise TypeError(
                    f"module: got a {kind} of TorchScript, expected Python code; pass the module that was scripted"
                )
        elif isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise TypeError(f"module: got a {kind}, expected a module on one device; pass its .module")
        elif any(
            t is not None and nn.parameter.is_lazy(t) for t in (*part._parameters.values(), *part._buffers.values())
        ):
            raise TypeError(f"module: got a {kind} with tensors of unknown shape; call it once with an input first")
        elif isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.max_norm is not None:
            raise ValueError(
                f"module: got a {kind} with max_norm, whose forward overwrites its weight, so that the loss is no "
                "function of it; normalise the rows in forward, or by a parametrization"
            )
