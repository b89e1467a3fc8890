"""What to do about a method that does not work, by the reason that its row gives."""

from __future__ import annotations

import re

_REMEDIES = tuple(
    (re.compile(pattern), remedy)
    for pattern, remedy in (
        (
            r"scaled_dot_product|_flash_attention|_efficient_attention|_cudnn_attention",
            "choose the attention backend that has all derivatives: with torch.nn.attention.sdpa_kernel("
            "torch.nn.attention.SDPBackend.MATH): ... inside f",
        ),
        (
            r"^no forward-mode formula",
            "take a method of reverse modes alone (double_backward, rows, batched_rows), or write the operation with "
            "ones that have a formula",
        ),
        (
            r"once_differentiable|must implement either the backward or vjp",
            "give the autograd.Function a backward made of differentiable operations, or write it with them",
        ),
        (
            r"^no derivative formula",
            "write the operation with ones that are differentiable twice; recurrent layers are on the CPU, and on a "
            "GPU with torch.backends.cudnn.flags(enabled=False)",
        ),
        (
            r"^no batching rule|under vmap|^data-dependent control flow|a layer fails under torch.func.vmap",
            "take a method that does not vectorise (double_backward, rows, columns), or torch.where for branches",
        ),
        (r"custom Function without setup_context", "split its forward into forward and setup_context"),
        (r"saved-tensor hooks|inside torch.func", "take a method outside torch.func (double_backward, rows)"),
        (
            r"truth is not finite",
            "move x off the point where f is singular, or keep it out of the graph with a double torch.where",
        ),
        (r"truth is in doubt", "make f smooth, deterministic and differentiable at x; the signs above say more"),
        (r"memory", "a smaller size or dtype, or products in place of the full tensor"),
    )
)
_BY_STATUS = {
    "wrong": "do not use it on this function; repair=True computes known hazards exactly",
    "refused": "repair=True computes what PyTorch gets wrong by exact substitutes",
    "timeout": "a larger --seconds, or another method",
    "oom": "another method, or a smaller size",
    "not measured": "more --seconds, or a smaller size",
}


def remedy(status: str, reason: str) -> str:
    """What to do; "" where nothing is known.

    Args:
        status: of the method; "ok" needs no remedy.
        reason: of its row.
    """
    if status == "ok":
        return ""
    if status == "not measured" and "memory budget" in reason:
        return "products (hvp) in its place, or a smaller size"
    if status in ("unsupported", "unverified", "failed", "skipped"):
        return next((remedy for pattern, remedy in _REMEDIES if pattern.search(reason)), "")
    return _BY_STATUS.get(status, "")
