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


def subtrees(tree: Any, structure: Structure) -> list[Any]:
    """What stands in the place of each leaf of a structure, in a tree that goes on below it."""
    return structure.flatten_up_to(tree)


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


def ordinary(tree: Any) -> Any:
    """The structure with tensors made in inference mode cloned, so that autograd may save them."""
    return _pytree.tree_map_only(Tensor, lambda t: t.clone() if t.is_inference() else t, tree)


def paths(tree: Any) -> list[str]:
    """Where each leaf lies, as one would write it after the structure's name: ``['weight'][0]``."""
    try:
        return [_pytree.keystr(path) for path, _ in _pytree.tree_flatten_with_path(tree)[0]]
    except ValueError:  # a class that was registered without names of its parts
        return [f".leaves[{i}]" for i in range(len(leaves(tree)))]


def in_order(tree: Any, like: Any) -> Any:
    """The structure with the keys of its dicts in the order of those of another, where they are the same keys."""
    if type(tree) is not type(like):
        return tree
    if type(tree) is dict and tree.keys() == like.keys():
        return {key: in_order(tree[key], like[key]) for key in like}
    if type(tree) in (list, tuple) and len(tree) == len(like):
        return type(tree)(in_order(part, of) for part, of in zip(tree, like, strict=True))
    return tree


def other_container(tree: Any, like: Any, at: str = "") -> tuple[str, str, str] | None:
    """Where the first container is of another class than in a second structure, and both classes' names."""
    if type(tree) is not type(like):
        return at, type(tree).__name__, type(like).__name__
    keys = like if isinstance(like, dict) else range(len(like)) if isinstance(like, list | tuple) else ()
    found = (other_container(tree[key], like[key], f"{at}[{key!r}]") for key in keys)
    return next((each for each in found if each is not None), None)


def names(tree: Any) -> list[str]:
    """Dotted names of the leaves, ``layers.0.weight``, as modules name their parameters."""
    try:
        found = _pytree.tree_flatten_with_path(tree)[0]
    except ValueError:  # a class that was registered without names of its parts
        return [str(i) for i in range(len(leaves(tree)))]
    parts = ("key", "idx", "name")
    return [".".join(str(getattr(k, a)) for k in path for a in parts if hasattr(k, a)) for path, _ in found]


def broadcast(prefix: Any, structure: Structure) -> list[Any] | None:
    """A value for each leaf, from a structure of which parts may be left out at the bottom; None: they do not match."""
    found: list[Any] | None = _pytree._broadcast_to_and_flatten(prefix, structure)
    return found
