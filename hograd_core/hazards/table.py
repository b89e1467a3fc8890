"""What PyTorch differentiates wrongly, as the atlas found it: the data of the guard.

Each entry is proved by the atlas in both directions: what it lists is wrong there, and what is wrong there is listed
(tests/studies). The lowest wrong order counts for all higher ones.
"""

from __future__ import annotations

from hograd_core.hazards._hazard import Hazard

TESTED = ("2.13.0", "2.14.1")
"""Versions of torch that the atlas has run on; another one counts as the nearest of these."""

RIGHT = ("double_backward",)
HAZARDS: tuple[Hazard, ...] = ()
