"""A module as a function of its parameters: every call gets a light copy of the module tree that holds other tensors.

``torch.func.functional_call`` puts the tensors into the caller's module and takes them out again. What runs later (a
checkpoint that recomputes in backward) then meets the module's own weights, and threads meet each other's. A copy lives
as long as a graph needs it, and nothing that the caller holds is touched: not even a counter that ``forward`` keeps.

A copy shares everything but what leads back to the tree (:mod:`._reach`): modules, the lists, dicts, closures, bound
methods and objects that hold one of them, or one of their tensors. What leads there by another way (a global variable)
is found in the graph of the first result, and refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from hograd_core._entrance import unwatched
from hograd_core._reach import Copier
from hograd_core.hazards import _graph


class Functional:
    """A module, and what else refers to it (a loss), with other tensors in place of its parameters.

    Making one walks the tree once; a call costs less than ``torch.func.functional_call``. Safe in threads.

    Args:
        module: the module; flags, buffers and attributes are those at the time of a call.
        *others: callables that may refer to the module: they get the copy to see.
        name: of the argument, for messages.

    Raises:
        ValueError: the module cannot be called with other parameters; the message says why and what to do.
    """

    def __init__(self, module: nn.Module, *others: Any, name: str = "module") -> None:
        self._roots = (module, *others)
        self._name = name
        self._plan()
        self._checked: set[str] = set()

    def _plan(self) -> None:
        module = self._roots[0]
        self._modules = list(module.modules())
        _check_kinds(module, self._name)
        self._places = {
            prefix + ("." if prefix else "") + key: (owner, key)
            for prefix, owner in module.named_modules(remove_duplicate=False)
            if not isinstance(owner, torch.jit.ScriptModule)
            for key in owner._parameters
        }
        self._own = {id(p): p for p in module.parameters()}
        tensors = [*self._own.values(), *module.buffers()]
        self._copier = Copier(self._roots, (*self._modules, *tensors))
        self._shape = self._fingerprint()

    def _fingerprint(self) -> int:
        """A number that changes when hooks, attributes or submodules come or go."""
        total = 0
        for module in self._modules:
            total += len(module.__dict__) + len(module._forward_hooks) + len(module._forward_pre_hooks)
            total += len(module._modules)
        return total

    def bound(self, values: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """Copies of the module and of the others, with ``values`` in place of the parameters of these names.

        A tied parameter is named once. Parameters that are not named stay the module's own; buffers are fresh clones.
        """
        if self._fingerprint() != self._shape:
            self._plan()
        memo: dict[int, Any] = {}
        for p in self._own.values():
            if p.is_inference():
                memo[id(p)] = p.clone()
        for name, value in values.items():
            owner, key = self._places[name]
            memo[id(owner._parameters[key])] = value
        for module in self._modules:
            for buffer in module._buffers.values():
                if buffer is not None and id(buffer) not in memo:
                    memo[id(buffer)] = buffer.clone()
        return self._copier.copies(memo)

    def __call__(self, values: Mapping[str, Tensor], body: Callable[..., Any], inputs: Any = ()) -> Any:
        """``body(module, *others)`` of :meth:`bound`.

        Args:
            values: parameters by name.
            body: what to compute of the copies.
            inputs: what else it takes; graphs behind it are not looked into.

        Raises:
            ValueError: the result hangs on parameters of the module that were to be replaced.
        """
        copies = self.bound(values)
        if "result" in self._checked or unwatched():
            return body(*copies)
        # Without a graph nothing can be seen: the first call records one, even under no_grad.
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            result = body(*copies)
        self.check(result, values, inputs)
        return result if recorded else tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, result)

    def check(self, result: Any, values: Mapping[str, Tensor], inputs: Any = (), *, what: str = "result") -> None:
        """Raise where a result hangs on a parameter that was to be replaced; looks at the first of each kind."""
        if what in self._checked or unwatched():
            return
        given = [t for t in tree_leaves((list(values.values()), inputs)) if isinstance(t, Tensor)]
        known = set(_graph.recorded(given))
        places = {name: self._places[name] for name in values}
        replaced = {id(owner._parameters[key]): name for name, (owner, key) in places.items()}
        kept = {id(t) for t in given}
        found = _graph.nodes([root for root in _graph.recorded(result) if root not in known], known)
        for leaf in _graph.leaves(found):
            if id(leaf) in replaced and id(leaf) not in kept:
                raise ValueError(
                    f"{self._name}: what it computes uses its own parameter {replaced[id(leaf)]!r} and not the one it "
                    "is called with, through a global variable, a class attribute or an object that cannot be copied; "
                    f"refer to it through self in forward, and in the loss by a closure or a method of {self._name}"
                )
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            self._checked.add(what)


def ordinary(value: Any) -> Any:
    """The same nested arguments with tensors made in inference mode cloned, so that autograd may save them."""
    return tree_map(lambda t: t.clone() if isinstance(t, Tensor) and t.is_inference() else t, value)


def _check_kinds(module: nn.Module, name: str) -> None:
    """Refuse modules that cannot be called with other parameters.

    Raises:
        ValueError: the message says why and what to do.
    """
    if nn.utils.parametrize._cache_enabled:
        raise ValueError(
            f"{name}: got a call inside parametrize.cached(), which keeps weights of other parameters; leave that block"
        )
    for path, one in module.named_modules():
        where = f"{name}: {path or 'itself'} is a {type(one).__name__}"
        if isinstance(one, torch.jit.ScriptModule):
            if any(p.requires_grad for p in one.parameters()) or (one.training and any(True for _ in one.buffers())):
                raise ValueError(f"{where}, whose tensors cannot be replaced; pass the module that was scripted")
        elif isinstance(one, nn.parallel.DistributedDataParallel) or (
            isinstance(one, nn.DataParallel) and len(one.device_ids) > 1
        ):
            raise ValueError(f"{where}, which runs on several devices; pass its .module")
        elif any(nn.parameter.is_lazy(t) for t in (*one._parameters.values(), *one._buffers.values())):
            raise ValueError(f"{where} whose shapes are not known yet; call it on a batch once before")
        elif isinstance(one, nn.Embedding | nn.EmbeddingBag) and one.max_norm is not None:
            raise ValueError(
                f"{where} with max_norm, whose forward writes into its weight, so that the loss is no function of it; "
                "normalise the rows in forward, or by a parametrization"
            )
