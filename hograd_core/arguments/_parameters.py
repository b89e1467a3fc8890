"""Which parameters of a module a call is about."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hograd_core._entrance import kept


@dataclass(frozen=True)
class Part:
    """A module of which some parameters count, the others being constants: what stands for it in a guard's arguments.

    Attributes:
        module: the module.
        chosen: its trainable parameters that count, by name.
    """

    module: nn.Module
    chosen: dict[str, nn.Parameter]


def constants_of(module: nn.Module, chosen: Collection[str]) -> dict[str, Tensor]:
    """The trainable parameters that were not chosen, so that no graph leads to them but that of a larger derivative."""
    others = {n: p for n, p in module.named_parameters() if p.requires_grad and n not in chosen}
    return {name: p if kept() else p.detach() for name, p in others.items()}


def trainable_of(module: nn.Module, parameters: str | Sequence[str] | None = None) -> dict[str, nn.Parameter]:
    """The trainable parameters of these names or patterns, in the module's order; of a tied one any name will do.

    Raises:
        TypeError: what is to name them is no text, nor several of them.
        ValueError: there is none, or a pattern names none.
    """
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError("module: got no parameter with requires_grad=True, expected at least one; unfreeze some")
    if parameters is None:
        return trainable
    patterns: Any = [parameters] if isinstance(parameters, str) else parameters
    if not isinstance(patterns, Iterable) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"parameters: got {parameters!r}, expected a name or a pattern of names, or a list of them")
    names = {name: id(p) for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    wanted: set[int] = set()
    for pattern in patterns:
        found = {names[name] for name in fnmatch.filter(names, pattern)}
        if not found:
            frozen = fnmatch.filter([name for name, p in module.named_parameters() if not p.requires_grad], pattern)
            reason = f"frozen ones ({', '.join(frozen)}); unfreeze them" if frozen else f"none of {', '.join(names)}"
            raise ValueError(f"parameters: got {pattern!r}, which names {reason}")
        wanted |= found
    if not wanted:
        raise ValueError(f"parameters: got {parameters!r}, expected at least one of {', '.join(names)}")
    return {name: p for name, p in trainable.items() if id(p) in wanted}
