"""Pages held against axe-core's rules of accessibility, wide and on a phone, light and dark, all details open.

``python -m studies.accessibility path/to/axe.min.js reports/index.html ...`` (session ``accessibility``, which brings
axe-core from npm). Exit code 1 where a rule is broken; each line names the rule, what breaks it, and how to mend it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from studies import screenshot

WIDTHS = (1300, 390)
_OPEN = "document.querySelectorAll('details').forEach(details => details.open = true)"
_RUN = "const done = arguments[arguments.length - 1]; axe.run(document, {resultTypes: ['violations']}).then(done)"
_SECONDS = 600  # a large page on a busy machine


def violations(pages: Sequence[Path], axe: str) -> Iterator[str]:
    """A line for each element that breaks a rule.

    Args:
        pages: HTML files.
        axe: the source of axe-core.

    Raises:
        RuntimeError: no browser.
    """
    with screenshot.chromium() as browser:
        browser.set_script_timeout(_SECONDS)
        browser.command_executor.client_config.timeout = _SECONDS  # its own patience with the driver is two minutes
        for page in pages:
            for width in WIDTHS:
                for dark in (False, True):
                    screenshot.size(browser, width, 900)
                    screenshot.dark(browser, dark)
                    browser.get(page.resolve().as_uri())
                    browser.execute_script(_OPEN)
                    browser.execute_script(axe)
                    where = f"{page.name}, {width} px, {'dark' if dark else 'light'}"
                    yield from (f"{where}: {line}" for line in _lines(browser.execute_async_script(_RUN)))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    for rule in found["violations"]:
        for node in rule["nodes"]:
            how = " ".join(node["failureSummary"].split())
            yield f"{rule['id']} ({rule['impact']}): {' '.join(map(str, node['target']))}: {how}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.accessibility", description=__doc__)
    parser.add_argument("axe", type=Path, help="axe.min.js of axe-core")
    parser.add_argument("pages", type=Path, nargs="+")
    arguments = parser.parse_args()
    found = list(violations(arguments.pages, arguments.axe.read_text(encoding="utf-8")))
    print("\n".join(found) or f"{len(arguments.pages)} page(s): no rule of axe-core is broken")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
