"""Functions as their users have them, made problems: loaded in a child process, wherever the engine runs.

A target is named, ``path/to/file.py:name`` or ``package.module:name``, or given as objects. It becomes a problem like
any other (:func:`declare`), so that cells, metrics, laws and the engine need to know nothing of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hograd_bench.targets._request import Request as Request

if TYPE_CHECKING:
    from hograd_bench.targets._describe import describe as describe
    from hograd_bench.targets._load import Example as Example
    from hograd_bench.targets._load import Target as Target
    from hograd_bench.targets._load import TargetError as TargetError
    from hograd_bench.targets._problem import declare as declare
    from hograd_bench.targets._problem import declared as declared

_WHERE = {
    "describe": "_describe", "Example": "_load", "Target": "_load", "TargetError": "_load", "declare": "_problem",
    "declared": "_problem",
}  # fmt: skip
"""What takes torch, which whoever names a target does without."""


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
