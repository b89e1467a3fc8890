"""How long a reader waits for a report in headless Chromium: for the page, and for what is done with it.

    python tests/bench/page_speed.py reports/index.html [--times 5]

prints the median in seconds of each step, over as many fresh loads from disk, and the size of the page in the browser.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from studies import screenshot

# From an act to the end of the frame after it: what a reader sees as the answer.
_ACT = """
const done = arguments[arguments.length - 1], act = () => { %s };
const began = performance.now();
act();
requestAnimationFrame(() => setTimeout(() => done((performance.now() - began) / 1000)));
"""
_CHOOSE = "const one = document.querySelector('{}'); one.selectedIndex = 1; one.dispatchEvent(new Event('change'))"
# Step -> what has to be there for it, and the act.
_STEPS = {
    "sort": ("#cell-table thead th", "document.querySelector('#cell-table thead th').click()"),
    "filter": ("#filters select", _CHOOSE.format("#filters select")),
    "search": (
        ".dt-search input",
        "const one = document.querySelector('.dt-search input');"
        "one.value = 'hvp'; one.dispatchEvent(new Event('input'))",
    ),
    "choose a picture": (".pictures select", _CHOOSE.format(".pictures select")),
    "open evidence": (".ev", "location.hash = document.querySelector('.ev').id"),
    "close it": (".ev", "location.hash = 'closed'"),
}


def measure(page: Path, times: int = 5) -> dict[str, float]:
    """Step -> median seconds; and the numbers of elements and MiB of script heap.

    "shown" is the first paint; "usable" is when the page's scripts are through, as a script that comes after them sees
    it. What the page does not have, such as a second picture, has no step.
    """
    found: dict[str, list[float]] = {}
    with screenshot.chromium() as driver:
        screenshot.size(driver, 1280, 900)
        for _ in range(times):
            driver.get("about:blank")
            began = time.time()
            driver.get(page.resolve().as_uri())
            driver.execute_async_script("setTimeout(arguments[0])")
            usable = time.time() - began
            paint = driver.execute_script("return performance.getEntriesByType('paint')[0].startTime / 1000")
            seen: dict[str, Any] = {"shown": paint, "usable": usable}
            for name, (selector, act) in _STEPS.items():
                if driver.execute_script("return document.querySelector(arguments[0]) !== null", selector):
                    seen[name] = driver.execute_async_script(_ACT % act)
            seen["elements"] = driver.execute_script("return document.querySelectorAll('*').length")
            seen["heap_mib"] = driver.execute_script("return performance.memory.usedJSHeapSize / 2 ** 20")
            for name, value in seen.items():
                found.setdefault(name, []).append(float(value))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    for name, value in measure(given.page, given.times).items():
        print(f"{name:<18}{value:12,.3f}".removesuffix(".000"))


if __name__ == "__main__":
    main()
