"""A picture of a report, for the README.

``python -m studies.screenshot reports/index.html docs/images/report.png``. It needs a Chromium with its
driver (Debian: chromium, chromium-driver) and selenium (the test dependencies).
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
WIDTH, HEIGHT = 1200, 1500


def missing() -> str | None:
    """What is lacking to drive a browser, or None."""
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed"
    if _binary() is None:
        return f"none of {', '.join(_NAMES)} is on the path"
    return None if shutil.which("chromedriver") else "chromedriver is not on the path"


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium that goes nowhere, with a profile of its own that is removed at the end.

    Raises:
        RuntimeError: there is none; the message says what is lacking.
    """
    lacking = missing()
    if lacking is not None:
        raise RuntimeError(f"browser: {lacking}; install chromium, chromium-driver and selenium")
    from selenium import webdriver

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        for option in (*_OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        options.binary_location = _binary() or ""
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield driver
        finally:
            driver.quit()


def size(driver: Any, width: int, height: int) -> None:
    """The size of the page's window in CSS pixels, down to a phone's."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def dark(driver: Any, wanted: bool) -> None:
    """Whether the reader prefers a dark page."""
    feature = {"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def settle(driver: Any, seconds: float = 5.0) -> None:
    """Wait until the page has drawn a frame after what was asked of it last."""
    driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        f"setTimeout(done, {seconds * 1000}); requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )


def take(page: Path, picture: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """Write a PNG of the top of a page, with few enough colours for a README.

    Args:
        page: the HTML file.
        picture: where to write.
        width: in CSS pixels.
        height: in CSS pixels.

    Raises:
        FileNotFoundError: no such page.
        RuntimeError: no browser.
    """
    from PIL import Image

    if not page.is_file():
        raise FileNotFoundError(f"{page}: no such page; build one with `hograd report`")
    with chromium() as driver:
        size(driver, width, height)
        driver.get(page.resolve().as_uri())
        settle(driver)
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    picture.parent.mkdir(parents=True, exist_ok=True)
    whole = Image.open(io.BytesIO(base64.b64decode(shot)))
    whole.convert("RGB").quantize(64).save(picture, optimize=True)
    return picture


def _binary() -> str | None:
    return os.environ.get("HOGRAD_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.screenshot", description=__doc__)
    parser.add_argument("page", type=Path, nargs="?", default=Path("reports/index.html"))
    parser.add_argument("picture", type=Path, nargs="?", default=Path("docs/images/report.png"))
    arguments = parser.parse_args()
    made = take(arguments.page, arguments.picture)
    print(f"{made}: {made.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
