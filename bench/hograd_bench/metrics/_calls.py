"""How calls are made whose figures must repeat: warmed up, from the same random numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hograd_bench.torch_state import seed

if TYPE_CHECKING:
    from hograd_bench.metrics._subject import Subject

WARM_UPS = 1
"""Calls before the one that is measured. The first fills caches (decompositions compiled for forward mode, oneDNN
primitives, per-thread buffers); in no cell did the figures of the second, third and fourth call differ."""

_warmed: weakref.WeakSet[Subject] = weakref.WeakSet()


def repeatable(call: Callable[[], Any]) -> Callable[[], Any]:
    """``call`` after reseeding torch's generator, so that methods that sample take the same steps each time."""

    def seeded() -> Any:
        seed(0)
        return call()

    return seeded


def warm(subject: Subject) -> Callable[[], Any]:
    """The subject's repeatable call, after its warm-up calls (made once per subject, whoever asks)."""
    call = repeatable(subject.call)
    if subject not in _warmed:
        for _ in range(WARM_UPS):
            call()
        _warmed.add(subject)
    return call
