"""A structure of tensors as one flat tensor, and results over that one as structures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hograd_core.arguments import _tree


@dataclass(frozen=True, eq=False)
class Packing:
    """How the leaves of a point lie in a flat tensor.

    Attributes:
        structure: of the leaves.
        name: of the point, ``x``.
        like: the leaves, whose shapes, dtypes and devices those of results are.
        dtype: the widest of the leaves'; device: the first one's.
    """

    structure: _tree.Structure
    name: str
    like: tuple[Tensor, ...]
    dtype: torch.dtype
    device: torch.device

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Where the leaves lie, as one writes it: ``x['weight']``."""
        return tuple(self.name + path for path in _tree.paths(_tree.unflatten(self.like, self.structure)))

    @functools.cached_property
    def shapes(self) -> tuple[torch.Size, ...]:
        """Shapes of the leaves."""
        return tuple(leaf.shape for leaf in self.like)

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of elements of the leaves."""
        return tuple(shape.numel() for shape in self.shapes)

    @functools.cached_property
    def uniform(self) -> bool:
        """Whether all leaves have one dtype and one device."""
        return len({(leaf.dtype, leaf.device) for leaf in self.like}) <= 1

    def refuse_mixed(self, what: str) -> None:
        """Raise where leaves differ in dtype or device, for what works with one tensor.

        Raises:
            ValueError: they do.
        """
        if not self.uniform:
            kinds = sorted({f"{leaf.dtype} on {leaf.device}" for leaf in self.like})
            raise ValueError(
                f"{what}: got leaves of {len(kinds)} kinds ({', '.join(kinds)}), expected one dtype on one device; "
                f"convert the leaves, or leave {what} out"
            )

    def pack(self, tree: Any, name: str) -> Tensor:
        """Leaves of this structure and these shapes, end to end.

        Raises:
            TypeError: a leaf is no tensor, or of another dtype.
            ValueError: the structure, a shape or a device differs.
        """
        found, structure = _tree.flatten(tree)
        if structure != self.structure:
            found, structure = _tree.flatten(_tree.in_order(tree, _tree.unflatten(self.like, self.structure)))
        if structure != self.structure:
            got = _outline(_tree.paths(tree), type(tree).__name__)
            mine = _outline([at.removeprefix(self.name) for at in self.names])
            other = _tree.other_container(tree, _tree.unflatten(self.like, self.structure)) if got == mine else None
            if other is not None:
                raise ValueError(
                    f"{name}{other[0]}: got a {other[1]}, expected a {other[2]} like {self.name}{other[0]}"
                )
            raise ValueError(
                f"{name}: got {got}, expected the structure of {self.name}, {mine}; "
                "give it the same containers and keys"
            )
        for i, (leaf, like) in enumerate(zip(found, self.like, strict=True)):
            if isinstance(leaf, Tensor) and _kind(leaf) == _kind(like):
                continue
            at = self.names[i]
            where = name + at.removeprefix(self.name)
            if not isinstance(leaf, Tensor):
                raise TypeError(f"{where}: got {type(leaf).__name__}, expected a torch.Tensor like {at}")
            if leaf.shape != like.shape:
                raise ValueError(f"{where}: got shape {tuple(leaf.shape)}, expected {tuple(like.shape)} like {at}")
            if leaf.dtype != like.dtype:
                raise TypeError(f"{where}: got dtype {leaf.dtype}, expected {like.dtype} like {at}; convert it")
            raise ValueError(f"{where}: got device {leaf.device}, expected {like.device} like {at}; move it")
        return self.laid(found)

    def laid(self, leaves: list[Tensor]) -> Tensor:
        """Leaves end to end, without a look at them."""
        return torch.cat([leaf.to(self.device, self.dtype).reshape(-1) for leaf in leaves])

    def unpack(self, flat: Tensor) -> Any:
        """A structure of a flat tensor of n elements; leaves of one dtype and device are views of it.

        Of one in another dtype, float64 for verification say, the leaves are in that, where they are in one elsewhere.
        """
        parts = [
            part.reshape(shape) for part, shape in zip(flat.split_with_sizes(self.sizes), self.shapes, strict=True)
        ]
        if not self.uniform:
            parts = [part.to(like.device, like.dtype) for part, like in zip(parts, self.like, strict=True)]
        elif flat.device != self.device:
            parts = [part.to(self.device) for part in parts]
        return _tree.unflatten(parts, self.structure)

    def shaped(self, result: Tensor, order: int, leading: int = 0, *, inner: bool = False) -> Any:
        """A tensor of shape (*batch, n, …, n) with n ``order`` times, as structures of … of structures of tensors.

        The outermost structure counts the first axis, as in ``jax.hessian``; a block has the dtype and device of its
        leaf there.

        Args:
            result: the tensor.
            order: how many axes are of length n.
            leading: how many axes come before them, which every leaf keeps.
            inner: whether the blocks have their dtype and device already.
        """
        if order == 0:
            return result
        blocks = []
        for part, like in zip(result.split_with_sizes(self.sizes, leading), self.like, strict=True):
            shape = (*part.shape[:leading], *like.shape, *part.shape[leading + 1 :])
            block = part.reshape(shape) if inner else part.reshape(shape).to(like.device, like.dtype)
            blocks.append(self.shaped(block, order - 1, leading + like.dim(), inner=True))
        return _tree.unflatten(blocks, self.structure)

    def joined(self, tree: Any, order: int, leading: int = 0) -> Any:
        """The inverse of :meth:`shaped`: structures of … of structures as a tensor of shape (*batch, n, …, n)."""
        if order == 0:
            return tree
        parts = []
        for part, like in zip(_tree.subtrees(tree, self.structure), self.like, strict=True):
            inner = self.joined(part, order - 1, leading + like.dim()).to(self.device, self.dtype)
            parts.append(inner.reshape(*inner.shape[:leading], like.numel(), *inner.shape[leading + like.dim() :]))
        return torch.cat(parts, leading)

    def function(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """f as a function of the flat tensor, other arguments following it."""

        def of_flat(flat: Tensor, *further: Any) -> Any:
            return f(self.unpack(flat), *further)

        return of_flat


def packing(tree: Any, name: str = "x") -> Packing:
    """How the leaves of a structure are laid in a flat tensor.

    Raises:
        TypeError: a leaf is not a dense tensor of a real floating dtype.
        ValueError: there is no element.
    """
    found, structure = _tree.flatten(tree)
    if not any(isinstance(leaf, Tensor) for leaf in found):
        raise TypeError(
            f"{name}: got {type(tree).__name__}, expected a torch.Tensor or a structure of tensors; "
            "wrap numbers in torch.tensor(...)"
        )
    packed = Packing(structure, name, tuple(found), torch.float32, torch.device("cpu"))
    for i, leaf in enumerate(found):
        if isinstance(leaf, Tensor) and leaf.dtype.is_floating_point and leaf.layout is torch.strided:
            continue
        at = packed.names[i]
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"{at}: got {type(leaf).__name__}, expected a torch.Tensor; what is not differentiated belongs in args"
            )
        got = f"dtype {leaf.dtype}" if leaf.layout is torch.strided else f"layout {leaf.layout}"
        raise TypeError(
            f"{at}: got {got}, expected a dense tensor of a real floating dtype; convert it, or pass it in args"
        )
    if not sum(leaf.numel() for leaf in found):
        raise ValueError(f"{name}: got a structure of {len(found)} tensors without an element, expected at least one")
    dtype = functools.reduce(torch.promote_types, (leaf.dtype for leaf in found))
    return replace(packed, dtype=dtype, device=found[0].device)


def _kind(leaf: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return leaf.shape, leaf.dtype, leaf.device


def _outline(paths: list[str], leaf: str = "") -> str:
    """Containers and keys of a structure; of what is none its type."""
    return leaf if paths == [""] else ", ".join(paths[:6]) + (", …" if len(paths) > 6 else "") or "an empty structure"
