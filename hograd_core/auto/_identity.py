"""What tells functions apart from process to process: their code, and what kind of things it refers to."""

from __future__ import annotations

import functools
import hashlib
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

_DEPTH = 4


def identity(f: Any) -> str:
    """A hash of a function's bytecode and of the shapes of what it closes over; values are not looked at.

    Two functions of one identity cost about the same; whether they are the same does not matter, for only a choice
    between right methods hangs on it.
    """
    return hashlib.sha256(_outline(f, _DEPTH).encode()).hexdigest()[:16]


def _outline(value: Any, depth: int) -> str:
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {value.dtype}"
    if isinstance(value, nn.Module):
        return f"{value} {[(name, tuple(p.shape)) for name, p in value.named_parameters()]}"
    if isinstance(value, (bool, int, float, str, bytes, type(None), torch.dtype, torch.Size)):
        return repr(value)
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, functools.partial):
        return f"partial {[_outline(v, depth - 1) for v in (value.func, *value.args, *value.keywords.values())]}"
    if isinstance(value, (tuple, list)):
        return f"{[_outline(v, depth - 1) for v in value[:64]]}"
    if isinstance(value, dict):
        return f"{[(str(k), _outline(v, depth - 1)) for k, v in list(value.items())[:64]]}"
    function = getattr(value, "__func__", value)
    code = getattr(function, "__code__", None)
    if code is not None:
        cells = [_content(cell, depth) for cell in getattr(function, "__closure__", None) or ()]
        return f"{_code(code)} {cells}"
    held = getattr(value, "__dict__", {})
    return f"{type(value).__qualname__} {_outline(held, depth - 1) if held else ''}"


def _content(cell: Any, depth: int) -> str:
    try:
        return _outline(cell.cell_contents, depth - 1)
    except ValueError:  # an empty cell
        return "empty"


def _code(code: CodeType) -> str:
    constants = [_code(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"
