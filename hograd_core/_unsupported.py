"""Recognises what PyTorch itself cannot differentiate, so that it is reported and never crashes a sweep.

Each entry pairs a pattern of PyTorch's own message with a short name for the limit. An error that matches
no entry is a defect of f or of ours and is raised unchanged. Out-of-memory errors match nothing here.
"""

from __future__ import annotations

import re


class UnsupportedError(RuntimeError):
    """PyTorch cannot compute this operator by this method for this function.

    Attributes:
        reason: PyTorch's own message, first line, prefixed with the kind of limit.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: unsupported by PyTorch: {reason}")
        self.reason = reason


_LIMITS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE | re.DOTALL))
    for kind, pattern in (
        ("no forward-mode formula", r"trying to use forward AD with .* that does not support it"),
        ("no forward-mode formula", r"(jvp|forward.?mode).* (is|are)? ?not (yet )?(implemented|supported)"),
        ("no forward-mode formula", r"must implement .*\bjvp\b|you must override.* jvp|Make sure .*override.*jvp"),
        ("ZeroTensors", r"ZeroTensors are immutable"),
        ("no derivative formula", r"derivative for '?.*'? is not implemented"),
        ("no derivative formula", r"trying to differentiate twice a function that was (marked|not)"),
        ("no derivative formula", r"does not support (double|higher.order|second.order)"),
        ("no derivative formula", r"(double|second).?(backward|derivative).* not (yet )?(implemented|supported)"),
        ("no batching rule", r"batching rule (is )?not (implemented|found|registered)"),
        ("no batching rule", r"vmap: .*(not (currently |yet )?support|we do not|unable|tried to|possible)"),
        ("no batching rule", r"vmap: It looks like you're (calling|attempting)"),
        ("custom Function without setup_context", r"(setup_context|generate_vmap_rule|vmap staticmethod)"),
        ("saved-tensor hooks barred", r"torch\.func\.\{?grad.*saved tensor hooks|don't yet support saved tensor hooks"),
        ("data-dependent control flow", r"(vmap|functorch).*data.dependent|data-dependent (control )?flow"),
        ("aten kernel missing", r"could not run 'aten::.*' with arguments from"),
        ("aten kernel missing", r"\"?\w+\"? not implemented for '\w+'"),
    )
)


def pytorch_limit(error: BaseException) -> str | None:
    """The limit of PyTorch that ``error`` reports, as ``kind: first line of its message``, or None."""
    message = str(error)
    for kind, pattern in _LIMITS:
        if pattern.search(message):
            first = message.strip().splitlines()[0] if message.strip() else type(error).__name__
            return f"{kind}: {first}"
    return None
