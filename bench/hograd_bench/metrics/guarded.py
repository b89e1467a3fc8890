"""Whether a user who calls the method gets its result: hograd's guard refuses what PyTorch differentiates wrongly.

Every other figure is taken without the guard, of the method itself.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from hograd_bench.metrics._contract import Metric, Missing, Readings

if TYPE_CHECKING:
    from hograd_bench.metrics._subject import Subject

TURN = 2
ON_REQUEST = True  # whoever recommends a call asks; it is one more call
METRICS = (
    Metric(
        "allowed",
        "bool",
        True,
        "one call as a user makes it",
        "whether hograd's guard lets the call pass",
        ("torch",),
        direction="higher",
    ),
)


def measure(subject: Subject) -> Readings:
    """Make the call as a user makes it.

    Args:
        subject: the cell made callable.

    Returns:
        The flag; details ``refused``, the guard's message, where it is false. Cost: one call.
    """
    from hograd_bench.metrics._calls import repeatable
    from hograd_core import UnsupportedError

    if subject.peer is not None:
        return Readings({"allowed": Missing("a peer's method passes no guard of hograd")})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            repeatable(subject.guarded_call)()
        except UnsupportedError as error:
            return Readings({"allowed": False}, {"refused": error.reason})
    return Readings({"allowed": True})
