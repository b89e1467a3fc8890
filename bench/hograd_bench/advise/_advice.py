"""Advice: everything that was found out about one target, as data."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from hograd_bench import store
from hograd_bench.advise import _plan, _snippet
from hograd_bench.advise._foretelling import Foretold, foretell
from hograd_bench.advise._ranking import Ranking, ranking

FORMAT = 1
"""Version of the JSON."""


@dataclass(frozen=True)
class Advice:
    """What to call for a function, and why.

    Attributes:
        request: the target, as ``targets.Request`` holds it.
        described: what was seen of it: ``numel``, ``dtype``, ``gradient_seconds``, ``memory``, ``signs``, ...
        frame: a row for every cell, as ``store.load`` gives them.
        needs: what was asked for.
        sizes: sizes that are foretold.
        seconds: wall time that it took.
        lost: why nothing is known of the target, "" where it could be looked at; ``lost_more`` has a traceback.
    """

    request: Mapping[str, Any]
    described: Mapping[str, Any]
    frame: pd.DataFrame
    needs: tuple[_plan.Need, ...]
    sizes: tuple[int, ...] = ()
    seconds: float = 0.0
    lost: str = ""
    lost_more: str = ""
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def rankings(self) -> tuple[Ranking, ...]:
        """The methods of each need."""
        return tuple(ranking(self.frame, self.described, need) for need in self.needs)

    @functools.cached_property
    def foretold(self) -> tuple[Foretold, ...]:
        """Bytes at sizes that were not measured."""
        return tuple(foretell(self.frame, self.described, self.rankings, self.sizes))

    @property
    def signs(self) -> list[dict[str, str]]:
        """What a reader should know of the function: what was seen at x, and what rows say."""
        return [*self.described.get("signs", []), *_signs_of_rows(self.frame, self.described)]

    def snippet(self, *names: str) -> str:
        """The recommended calls as a program that runs as it is; of all needs where none is named, "" where none is."""
        chosen = [(r.need, r.best) for r in self.rankings if r.best is not None and (not names or r.need.name in names)]
        return _snippet.program(self.request, self.described, chosen) if chosen else ""

    @property
    def given(self) -> bool:
        """Whether there is a method to take for anything that was asked for."""
        return any(r.best is not None for r in self.rankings)

    def to_json(self) -> dict[str, Any]:
        """All of it in plain types, NaN as null; the rows as records."""
        tidied: dict[str, Any] = _tidy(
            {
                "format": FORMAT,
                "target": dict(self.request),
                "described": {k: v for k, v in self.described.items() if k != "operators"},
                "lost": self.lost or None,
                "seconds": self.seconds,
                "notes": list(self.notes),
                "signs": self.signs,
                "needs": [
                    {
                        **asdict(r.need), "best": r.best and r.best.method, "why": r.why or None,
                        "snippet": self.snippet(r.need.name) or None, "methods": [asdict(m) for m in r.ranked],
                    }
                    for r in self.rankings
                ],
                "foretold": [{**asdict(f), "text": f.text} for f in self.foretold],
                "rows": json.loads(self.frame.drop(columns=["details", "missing"]).to_json(orient="records")),
            }
        )  # fmt: skip
        return tidied

    def to_html(self) -> str:
        """One self-contained page."""
        from hograd_bench.advise import _page

        return _page.page(self)

    def _repr_html_(self) -> str:
        from hograd_bench.advise import _page

        return _page.fragment(self)

    def __str__(self) -> str:
        from hograd_bench.advise import _terminal

        return _terminal.text(self)


def frame_of(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a frame."""
    return store.frame_of(list(enumerate(rows)))


def _signs_of_rows(frame: pd.DataFrame, described: Mapping[str, Any]) -> list[dict[str, str]]:
    """Leaks, doubts about the truth, and differences that a dtype is too narrow for."""
    if frame.empty:
        return []
    found = []
    here = frame[frame["n"] == described["n"]]
    kept = here[here["retained_bytes"] > 0] if "retained_bytes" in here else here[:0]
    reverse = kept[kept["operator"] == "gradient"]
    if len(reverse):
        found.append(
            {
                "name": "memory kept",
                "says": f"a gradient leaves {int(reverse['retained_bytes'].max()):,} bytes behind",
                "remedy": "f keeps tensors, or their graph, in a list, an attribute or a cache: detach what is kept",
            }
        )  # fmt: skip
    elif len(kept):
        names = ", ".join(sorted(set(kept["method"])))
        found.append(
            {
                "name": "memory kept", "says": f"calls by {names} leave bytes behind",
                "remedy": "take another method in a loop, or collect garbage",
            }
        )  # fmt: skip
    doubts = sorted({str(r) for r in here["reason"] if r and "truth is in doubt" in str(r)})
    if doubts:
        found.append(
            {"name": "truth in doubt", "says": doubts[0], "remedy": "nothing is recommended that no truth confirms"}
        )
    narrow = here[(here["method"] == "finite_difference") & (here["status"] != "unsupported")]
    if len(narrow) and described["dtype"] != "float64":
        error = narrow["relative_error"].max() if "relative_error" in narrow else math.nan
        said = f": an error of {error:.1g} here" if error == error else ""
        found.append(
            {
                "name": "dtype and differences", "says": f"finite differences lose half of the digits of "
                f"{described['dtype']}{said}", "remedy": "float64, or an exact method",
            }
        )  # fmt: skip
    return found


def _tidy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _tidy(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_tidy(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
