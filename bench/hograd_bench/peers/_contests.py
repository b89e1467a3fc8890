"""The contests of contests.toml."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

from hograd_bench.peers._contract import Contest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).with_name("contests.toml")


def contests(text: str | None = None) -> list[Contest]:
    """All contests in the order of the file; lists in an entry multiply out.

    Args:
        text: TOML in place of the file's.

    Returns:
        Contests, each once.

    Raises:
        ValueError: an entry has an unknown or missing field, or two entries make the same contest.
    """
    found: dict[str, Contest] = {}
    for entry in tomllib.loads(FILE.read_text(encoding="utf-8") if text is None else text).get("contest", []):
        values = [value if isinstance(value, list) else [value] for value in entry.values()]
        for chosen in itertools.product(*values):
            fields: dict[str, Any] = dict(zip(entry, chosen, strict=True))
            try:
                contest = Contest(**fields)
            except TypeError as error:
                raise ValueError(f"contest: {fields}: {str(error).partition(' ')[2]}") from None
            if contest.id in found:
                raise ValueError(f"contest: {contest.id} is declared twice")
            found[contest.id] = contest
    return list(found.values())
