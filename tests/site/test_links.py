"""The built site: every link within it leads somewhere, to the very anchor. `nox -s site` builds it and runs this."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(__file__).parents[2] / "build" / "site"
pytestmark = pytest.mark.skipif(not (SITE / "index.html").exists(), reason="nox -s site builds the site and runs this")


class Page(HTMLParser):
    """Where a page's links lead, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := given.get(name)))
        self.links += [value for name in ("href", "src") if (value := given.get(name))]


def test_every_link_leads_somewhere() -> None:
    pages = {path: Page(path) for path in SITE.rglob("*.html")}
    assert len(pages) > 20
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else None
            if not target.exists() or (
                parts.fragment and anchors is not None and unquote(parts.fragment) not in anchors
            ):
                dead.append(f"{path.relative_to(SITE)}: {link}")
    assert not dead


def test_every_public_name_is_in_the_reference() -> None:
    import hograd_core

    anchors = Page(SITE / "reference" / "made" / "kernels.html").anchors
    assert {f"hograd_core.{name}" for name in hograd_core.__all__} <= anchors
