"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from hograd_bench.claims._model import Finding, Part
from hograd_bench.claims._series import Baseline, Operations


@dataclass(frozen=True)
class Data:
    """What a rule decides on.

    Attributes:
        rows: the rows of the part's cells, oldest first.
        frame: all rows, for baselines.
        operations: (problem, n, depth, batch) -> operations of f counted by hand, or None.
    """

    rows: pd.DataFrame
    frame: pd.DataFrame
    operations: Operations
    _baselines: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def baseline(self, name: str) -> Baseline:
        """The rows of "operator/method" in ``frame``, looked up once for all groups of a part."""
        if name not in self._baselines:
            self._baselines[name] = Baseline(self.frame, name)
        found: Baseline = self._baselines[name]
        return found


@dataclass(frozen=True)
class Rule:
    """An acceptance rule: which parameters it takes, and how it decides.

    Attributes:
        name: as in claims.toml.
        required, optional: parameters beside the fields of every part.
        decide: data -> one finding a group.
        meaning: what it accepts and what it rejects, in a sentence, for docs/claims.md.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    decide: Callable[[Part, Data], list[Finding]]
    meaning: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """All parameters."""
        return (*self.required, *self.optional)
