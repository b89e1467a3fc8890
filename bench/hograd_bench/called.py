"""Modules that are called: ``hograd_bench.laws(frame)`` beside ``hograd_bench.laws.fit_exact``."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def as_function(module: str, function: str) -> None:
    """Have calls of a module go to a function.

    Args:
        module: name of a module that is imported, or is just being.
        function: ``package.module:name``, imported at the first call.
    """
    where, _, name = function.partition(":")

    class Called(ModuleType):
        def __call__(self, *arguments: Any, **keywords: Any) -> Any:
            return getattr(importlib.import_module(where), name)(*arguments, **keywords)

    sys.modules[module].__class__ = Called
