"""Whether several ways to compute a thing agree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path


def disagreement(expected: Any, got: Any, to: float) -> str:
    """How two results differ; "": they agree.

    Args:
        expected: a structure of tensors and numbers.
        got: another.
        to: bound on max|a - b| over the largest entry of both, for each tensor by itself.

    Returns:
        A clause: the structure, shape or entry. NaN and infinities must stand in the same places.
    """
    (a, structure_a), (b, structure_b) = (tree_flatten_with_path(each) for each in (expected, got))
    if structure_a != structure_b:
        return f"gives another structure: {structure_b}, not {structure_a}"
    for (path, one), (_, other) in zip(a, b, strict=True):
        why = _tensors(_wide(one), _wide(other), to)
        if why:
            return why + (f", in the result's {keystr(path)}" if path else "")
    return ""


def _wide(value: Any) -> Tensor:
    tensor = torch.as_tensor(value).detach().cpu()
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _tensors(a: Tensor, b: Tensor, to: float) -> str:
    if a.shape != b.shape:
        return f"gives shape {tuple(b.shape)}, not {tuple(a.shape)}"
    finite = torch.isfinite(a)
    same = torch.isfinite(b) == finite
    if not bool(same.all()) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return "is not finite in the same entries"
    gap = torch.where(finite, a - b, 0).abs()
    if not gap.numel():
        return ""
    scale = max(float(t[finite].abs().max()) for t in (a, b)) if bool(finite.any()) else 0.0
    worst = int(gap.argmax())
    if float(gap.flatten()[worst]) <= to * scale:
        return ""
    where = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), gap.shape))
    shown = f" at {where}" if where else ""
    return (
        f"differs by {float(gap.flatten()[worst]) / scale:.3g} of the largest entry{shown}, allowed {to:g}: "
        f"{b[where].item():.9g}, not {a[where].item():.9g}"
    )
