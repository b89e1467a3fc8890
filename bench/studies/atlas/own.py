"""Cases that PyTorch's operator database lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OWN: dict[str, Callable[[], tuple[Callable[[list[Any]], Any], tuple[Any, ...], bool]]] = {}
