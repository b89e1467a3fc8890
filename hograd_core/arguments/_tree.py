"""Structures of tensors: the one module that imports ``torch.utils._pytree``.

A structure is what PyTorch's own registry says: dict, list, tuple, named tuple, OrderedDict, and classes that were
registered with ``torch.utils._pytree.register_pytree_node``, nested as one likes. Anything else is a leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

Structure = _pytree.TreeSpec
"""How leaves hang together; equal for equal structures."""


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """The leaves of a structure, in order, and how they hang together."""
    return _pytree.tree_flatten(tree)


def unflatten(leaves: Sequence[Any], structure: Structure) -> Any:
    """The structure with these leaves."""
    return _pytree.tree_unflatten(leaves, structure)


def is_leaf(tree: Any) -> bool:
    """Whether this is no structure."""
    return _pytree.tree_is_leaf(tree)


def leaves(tree: Any) -> list[Any]:
    """The leaves of a structure, in order."""
    return _pytree.tree_leaves(tree)


def mapped(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The structure of what ``function`` makes of each leaf, and of those of others of the same structure."""
    return _pytree.tree_map(function, tree, *others)


def detached(tree: Any) -> Any:
    """The structure with its tensors detached, and other leaves as they are."""
    return _pytree.tree_map_only(Tensor, torch.detach, tree)


def paths(tree: Any) -> list[str]:
    """Where each leaf lies, as one would write it after the structure's name: ``['weight'][0]``."""
    try:
        return [_pytree.keystr(path) for path, _ in _pytree.tree_flatten_with_path(tree)[0]]
    except ValueError:  # a class that was registered without names of its parts
        return [f".leaves[{i}]" for i in range(len(leaves(tree)))]


def broadcast(prefix: Any, structure: Structure) -> list[Any] | None:
    """A value for each leaf, from a structure of which parts may be left out at the bottom; None: they do not match."""
    found: list[Any] | None = _pytree._broadcast_to_and_flatten(prefix, structure)
    return found
