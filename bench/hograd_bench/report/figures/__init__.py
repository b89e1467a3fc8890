"""Figures: one file each, discovered by being here. A file has ORDER, TITLE, ABOUT and draw(data) -> Drawn, ...

``draw`` yields what it can draw from the rows: nothing, where they say nothing. A file may have answer(data), a
sentence that answers its title where one can. Files that begin with an
underscore are shared pieces.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType

from hograd_bench.report.figures._contract import Drawn as Drawn
from hograd_bench.report.figures._contract import Note as Note


@functools.cache
def figures() -> tuple[ModuleType, ...]:
    """Every figure's module, in the order of the page."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    return tuple(sorted((importlib.import_module(f"{__name__}.{n}") for n in names), key=lambda m: m.ORDER))
