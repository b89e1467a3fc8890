"""Figures: one file each, discovered by being here. A file has ORDER, TITLE, ABOUT and draw(rows) -> Drawn, ...

``draw`` gets the ok rows of the runs shown and yields what it can draw from them: nothing, where they say nothing.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType

from hograd_bench.report.figures._contract import Drawn as Drawn


@functools.cache
def figures() -> tuple[ModuleType, ...]:
    """Every figure's module, in the order of the page."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    return tuple(sorted((importlib.import_module(f"{__name__}.{n}") for n in names), key=lambda m: m.ORDER))
