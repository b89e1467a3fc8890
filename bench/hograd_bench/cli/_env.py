"""The command `hograd env`: what an issue should say about the machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hograd_bench.cli._common import AsJson, out, print_json


def env(as_json: AsJson = False) -> None:
    """Machine and software, as a run records them, for an issue; no host name, user name or path."""
    from hograd_bench import environment

    found = environment.record()
    if as_json:
        print_json(found)
    else:
        out.print("\n".join(_lines(found)), markup=False, soft_wrap=True)


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """``section.key: value`` of what is known, in the record's order."""
    for section, value in found.items():
        facts = {f"{section}.{key}": v for key, v in value.items()} if isinstance(value, Mapping) else {section: value}
        for name, fact in facts.items():
            if fact not in (None, "", [], {}):
                yield f"{name}: {fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)}"
