"""Operations as those see them who say what depends on what, or how it bends: kinds of them by name, and one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hograd_core.arguments import _tree
from hograd_core.sparse._sets import Sets


def _named(text: str) -> frozenset[str]:
    return frozenset(text.split())


LINEAR = _named(
    """abs add alias clamp clamp_max clamp_min clone copy fmax fmin hardtanh hardtanh_backward leaky_relu
    leaky_relu_backward masked_fill maximum minimum nan_to_num neg positive relu relu6 rsub sub threshold
    threshold_backward where _to_copy fill lift_fresh_copy"""
)
"""Elementwise, and linear where they are smooth."""
CONSTANT = _named(
    """ceil empty_like floor full_like heaviside ones_like rand_like randn_like round sgn sign trunc zeros_like
    new_zeros new_ones new_full new_empty zero empty_strided new_empty_strided bernoulli signbit"""
)
"""Results that have no derivative."""
REDUCING = _named("amax amin max mean median min nanmedian nansum sum kthvalue mode")
REDUCING_CURVED = _named("linalg_vector_norm logsumexp norm prod std std_mean var var_mean")
ALONG = _named("cummax cummin cumsum sort topk")
ALONG_CURVED = _named(
    """_log_softmax _log_softmax_backward_data _softmax _softmax_backward_data cumprod logcumsumexp"""
)
MOVING = _named(
    """_unsafe_view as_strided_copy cat constant_pad_nd diag_embed diagonal_backward diagonal_scatter embedding
    expand_copy flip gather im2col index index_copy index_fill index_put index_select masked_scatter masked_select
    permute_copy pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat
    replication_pad1d replication_pad2d replication_pad3d roll rot90 scatter select_backward select_scatter
    slice_backward slice_scatter split_with_sizes_copy stack take tril triu unfold_copy unsafe_split
    unsafe_split_with_sizes upsample_nearest1d upsample_nearest2d upsample_nearest3d view_copy"""
)
"""Elements go elsewhere, and nothing is computed."""
MATMUL = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "vdot": 0, "addmm": 1, "addmv": 1, "baddbmm": 1}
"""Products of matrices and vectors -> how many arguments come before the two factors."""
POSITIONS = _named("index indices mask repeats")


class Call:
    """One operation as rules see it.

    Attributes:
        trace: what holds the sets. func: the ATen overload. out: its result.
        given: arguments by the schema's names.
    """

    def __init__(self, trace: Any, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        self.trace, self.func, self.out = trace, func, out
        names = [a.name for a in func._schema.arguments]
        self.defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
        self.given = {**dict(zip(names, args, strict=False)), **kwargs}

    def argument(self, *names: str) -> Any:
        """The first argument that the operation has of these names, given or by default; None: it has none."""
        for name in names:
            if name in self.given:
                return self.given[name]
            if name in self.defaults:
                return self.defaults[name]
        return None

    def looks(self) -> None:
        """Note that what is found rests on values of tensors: on positions, on zeros of a matrix."""
        self.trace.looked = True

    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, but masks and positions."""
        return [t for t in _tree.leaves(self.given) if isinstance(t, Tensor) and t.dtype.is_floating_point]

    def tracked(self) -> list[tuple[Tensor, Sets]]:
        """Those that depend on x, and on what."""
        found = ((t, self.trace.sets_of(t)) for t in self.tensors())
        return [(t, s) for t, s in found if s is not None]


def name_of(func: Any) -> str:
    """The name of an overload's operation, in place or not."""
    name: str = func.overloadpacket.__name__
    return name[:-1] if func._schema.is_mutable and name.endswith("_") else name


def dims_of(call: Call, rank: int) -> list[int]:
    """The axes that an operation goes along; all where it names none."""
    dim = call.argument("dim")
    if dim is None or (isinstance(dim, Sequence) and not len(dim)):
        return list(range(rank))
    return [d % rank if rank else 0 for d in ([dim] if isinstance(dim, int) else dim)]


def on_numbers(func: Any, given: dict[str, Any]) -> Any:
    """An operation on numbers of elements: exact in int64, and in float64 where there is no kernel for that."""
    try:
        return func(**given)
    except (RuntimeError, NotImplementedError):
        wide = _tree.mapped(lambda t: t.double() if isinstance(t, Tensor) and t.dtype == torch.int64 else t, given)
        return func(**{**wide, **{name: given[name] for name in POSITIONS if name in given}})
