"""The report in a real browser: opened from the disk, with and without JavaScript, wide and narrow, light and dark."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_speed
import pytest
import report_fakes as fakes
from hograd_bench import report
from studies import screenshot

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        screenshot.missing() is not None, reason=f"no browser here: {screenshot.missing()}; .ci/run installs one"
    ),
    # selenium's own sockets to its driver, closed when the interpreter gets to it
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A report of two runs and their comparison, hostile names included."""
    base = tmp_path_factory.mktemp("browser")
    for run, extra in (("20260101T000000Z-aaaaaaaa", 0), ("20260102T000000Z-bbbbbbbb", 64)):
        fakes.write(base / "results", run, fakes.rows(run, evil=True, extra=extra), note=fakes.EVIL)
    index = report.build(base / "results", base / "reports").path
    compared = report.build_comparison(base / "results", base / "reports", "20260101", "20260102").path
    return index, compared


@pytest.fixture(scope="module")
def pages(files: tuple[Path, Path]) -> tuple[str, ...]:
    """Their file:// addresses."""
    return tuple(file.as_uri() for file in files)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One headless Chromium for all tests."""
    with screenshot.chromium() as driver:
        yield driver


@pytest.fixture
def page(browser: Any, pages: tuple[str, ...]) -> Iterator[Any]:
    """The report, freshly loaded at desktop width."""
    screenshot.size(browser, 1280, 900)
    load(browser, pages[0])
    yield browser
    assert browser.get_log("browser") == [], "the console holds no error"
    assert not browser.execute_script("return window.alerted"), "nothing ran that should not"


def load(browser: Any, address: str) -> None:
    """Go to a page anew, and wait for all of it: on a busy machine the driver has returned before."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get("about:blank")
    browser.get(address)
    there = "document.readyState === 'complete' && location.href === arguments[0]"
    WebDriverWait(browser, 120).until(lambda b: script(b, there, address))


def script(browser: Any, source: str, *arguments: object) -> Any:
    """The value of an expression in the page."""
    return browser.execute_script(f"return {source}", *arguments)


def first_column(browser: Any, index: int) -> list[str]:
    """Texts of a column of the cell table, as shown."""
    rows = "[...document.querySelectorAll('#cell-table tbody tr')]"
    found: list[str] = script(browser, rows + ".map(r => r.cells[arguments[0]].textContent.trim())", index)
    return found


def test_loads_without_errors_and_hides_nothing_that_matters(page: Any) -> None:
    assert page.title == "hograd report"
    assert script(page, "document.querySelectorAll('.verdict').length") > 10
    assert script(page, "document.querySelectorAll('img').length") == 0
    visible = "[...document.querySelectorAll('.pictures figure')].filter(f => f.offsetParent !== null).length"
    sections = script(page, "document.querySelectorAll('.pictures').length")
    assert script(page, visible) == sections, "one picture a section"


def test_choosers_change_the_picture(page: Any) -> None:
    data = "[...document.querySelectorAll('#dimension figure')].filter(f => !f.hidden).map(f => f.id)"
    before = script(page, data)
    page.execute_script(
        "const s = document.querySelector('#dimension .filters select'); s.selectedIndex = s.selectedIndex ? 0 : 1;"
        "s.dispatchEvent(new Event('change'))"
    )
    after = script(page, data)
    assert len(before) == len(after) == 1
    assert before != after


def test_small_pictures_open_theirs_by_keyboard_too(page: Any) -> None:
    shown = "[...document.querySelectorAll('#dimension figure')].filter(f => !f.hidden).map(f => f.id)"
    current = "[...document.querySelectorAll('#dimension .thumbs [aria-current=true]')].map(t => t.hash.slice(1))"
    thumbs = page.find_elements("css selector", "#dimension .thumbs a")
    assert len(thumbs) > 1
    for thumb in reversed(thumbs):
        thumb.send_keys("\n")
        assert script(page, shown) == script(page, current) == [thumb.get_attribute("href").split("#")[1]]
        assert thumb.text, "has a name"
        assert script(page, "arguments[0].querySelector('use').getBBox().width > 0", thumb)
    other = thumbs[-1].get_attribute("href").split("#")[1]
    page.execute_script("location.hash = arguments[0]", other)
    screenshot.settle(page)
    assert script(page, shown) == [other], "its address opens it, too"


def test_on_a_phone_names_stand_below_their_picture(page: Any) -> None:
    key, name = "#dimension figure:not([hidden]) .key", "#dimension figure:not([hidden]) .end"
    assert page.find_elements("css selector", name)
    assert not page.find_element("css selector", key).is_displayed()
    screenshot.size(page, 390, 800)
    found = page.find_element("css selector", key)
    assert found.is_displayed()
    assert not page.find_element("css selector", name).is_displayed()
    names = "[...arguments[0].parentElement.querySelectorAll(arguments[1])].map(e => e.textContent)"
    assert script(page, names, found, ".key span") == script(page, names, found, ".end")[::-1]
    box, above = "arguments[0].getBoundingClientRect()", "arguments[0].previousElementSibling.getBoundingClientRect()"
    assert script(page, f"{box}.top >= {above}.bottom && {box}.right <= 390", found)


def test_the_picker_names_what_the_tables_say(page: Any) -> None:
    """Whatever is needed: its answer is a square of the tables, and each choice leads to another."""
    assert page.find_element("id", "picker").is_displayed()
    seen = set()
    for place in range(script(page, "document.querySelectorAll('#picker select')[0].options.length")):
        page.execute_script(
            "const s = document.querySelector('#picker select'); s.selectedIndex = arguments[0];"
            "s.dispatchEvent(new Event('change'))", place,
        )  # fmt: skip
        said = script(page, "document.querySelector('#picker [role=status]').textContent")
        need = script(page, "document.querySelector('#picker select').value")
        squares = f"[...document.querySelectorAll('table.advice')].find(t => t.dataset.need === {need!r}).textContent"
        assert said.strip()
        assert said in script(page, squares)
        seen.add(said)
    assert len(seen) > 1


def test_the_picker_keeps_what_was_chosen_alone(page: Any) -> None:
    """What another need had to show, for it has no other order, is not taken for a choice."""
    choose = (
        "const s = document.querySelector('#picker select'); s.selectedIndex = arguments[0];"
        "s.dispatchEvent(new Event('change'))"
    )
    chosen = "[...document.querySelectorAll('#picker select')].map(s => s.value)"
    page.execute_script(choose, 0)
    before = script(page, chosen)
    for place in range(script(page, "document.querySelectorAll('#picker select')[0].options.length")):
        page.execute_script(choose, place)
    page.execute_script(choose, 0)
    assert script(page, chosen) == before


def test_what_is_read_out_has_the_table_of_all_cells(page: Any) -> None:
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    told = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")}
    assert ("heading", "All cells") in told
    assert any(role == "table" and name.startswith("All cells") for role, name in told)


def test_choosers_offer_what_there_is_and_leave_what_is_further_left(page: Any) -> None:
    """Whatever is chosen, in whatever order, the choices further left stay as they were."""
    having = (
        "[...document.querySelectorAll('section')].filter(s => s.querySelector('.pictures .filters')).map(s => s.id)"
    )
    for section in script(page, having):
        chosen = f"[...document.querySelectorAll('#{section} .pictures .filters select')].map(s => s.value)"
        options = f"[...document.querySelectorAll('#{section} .pictures .filters select')].map(s => s.options.length)"
        for place, count in enumerate(script(page, options)):
            for option in range(count):
                before = script(page, chosen)
                page.execute_script(
                    f"const s = document.querySelectorAll('#{section} .pictures .filters select')[{place}];"
                    f"if ({option} < s.options.length) {{ s.selectedIndex = {option};"
                    "s.dispatchEvent(new Event('change')); }"
                )
                assert script(page, chosen)[:place] == before[:place], section
                data = f"[...document.querySelectorAll('#{section} figure')].filter(f => !f.hidden).length"
                assert script(page, data) == 1


def test_missing_figures_come_last_whichever_way_is_sorted(page: Any) -> None:
    time = script(
        page, "[...document.querySelectorAll('#cell-table thead th')].findIndex(h => h.title === 'seconds_min')"
    )
    page.execute_script(
        "const s = document.querySelector('.dt-length select'); s.value = '500'; s.dispatchEvent(new Event('change'))"
    )
    for _ in range(2):
        page.execute_script("document.querySelectorAll('#cell-table thead th')[arguments[0]].click()", time)
        data = first_column(page, time)
        missing = data.count("–")
        assert 0 < missing < len(data)
        assert data[-missing:] == ["–"] * missing


def test_further_figures_and_reasons_are_shown_on_request(page: Any) -> None:
    heads = "[...document.querySelectorAll('#cell-table thead th')]"
    shown = heads + ".filter(h => h.offsetWidth).map(h => h.title || 'reason')"
    first = script(page, shown)
    assert {"method", "seconds_min", "gradient_equivalents", "peak_bytes", "relative_error"} <= set(first)
    assert "device" not in first, "all are of one"
    page.find_element("id", "all-figures").send_keys(" ")
    assert set(script(page, shown)) - set(first) == {"total_bytes", "allocations", "aten_calls", "reason"}


def test_table_sorts_filters_and_searches(page: Any) -> None:
    head = "[...document.querySelectorAll('#cell-table thead th')].findIndex(h => h.title === arguments[0])"
    n, time = script(page, head, "n"), script(page, head, "seconds_min")
    page.execute_script("document.querySelectorAll('#cell-table thead th')[arguments[0]].click()", n)
    sizes = [int(v) for v in first_column(page, n)]
    assert sizes == sorted(sizes)
    assert len(sizes) == 25
    page.execute_script(
        "const t = document.querySelectorAll('#cell-table thead th')[arguments[0]]; t.click(); t.click()", time
    )
    units = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}
    times = [float(v.split()[0].replace(",", "")) * units[v.split()[1]] for v in first_column(page, time) if v != "–"]
    assert times == sorted(times, reverse=True)
    assert script(page, "document.querySelector('#cell-table thead th[aria-sort=descending]') !== null")
    page.execute_script(
        "const s = [...document.querySelectorAll('#filters label')].find(l => l.textContent.startsWith('status'))"
        ".querySelector('select'); s.value = 'timeout'; s.dispatchEvent(new Event('change'))"
    )
    assert first_column(page, script(page, head, "status")) == ["timeout"]


def test_hover_tells_the_row(page: Any) -> None:
    page.execute_script(
        "const a = document.querySelector('#dimension figure:not([hidden]) svg a');"
        "a.dispatchEvent(new PointerEvent('pointerover', {bubbles: true, clientX: 300, clientY: 300}))"
    )
    said = script(page, "document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
    assert "n = " in said
    assert "peak" in said


def test_evidence_opens_takes_the_focus_and_closes(page: Any) -> None:
    link = page.find_element("css selector", "#cell-table tbody a")
    target = link.get_attribute("href").split("#")[1]
    page.execute_script("arguments[0].focus(); arguments[0].click()", link)
    screenshot.settle(page)
    assert page.find_element("id", target).is_displayed()
    assert script(page, "document.activeElement.id") == target
    assert "hograd run --cell" in page.find_element("id", target).text
    page.find_element("tag name", "body").send_keys("\ue00c")  # Escape
    screenshot.settle(page)
    assert not page.find_element("id", target).is_displayed()
    assert script(page, "document.activeElement.textContent") == link.text, "the focus is back"


def test_a_verdict_leads_to_a_row_and_its_environment(page: Any) -> None:
    href = script(page, "document.querySelector('.verdict .links a, .verdict dd a').getAttribute('href')")
    page.execute_script("location.hash = arguments[0]", href)
    screenshot.settle(page)
    panel = page.find_element("css selector", ".ev:target")
    assert panel.is_displayed()
    environment = panel.find_element("css selector", "a[href^='#env-']").get_attribute("href").split("#")[1]
    page.execute_script("location.hash = arguments[0]", environment)
    screenshot.settle(page)
    assert script(page, "document.getElementById(arguments[0]).open", environment)


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_scrolls_sideways(page: Any, width: int) -> None:
    screenshot.size(page, width, 800)
    assert script(page, "document.documentElement.scrollWidth") <= width


def test_dark_mode_changes_paper_ink_and_curves(page: Any) -> None:
    colours = (
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        " getComputedStyle(document.querySelector('#dimension svg a use, #dimension svg a path')).fill]"
    )
    light = script(page, colours)
    screenshot.dark(page, True)
    dark = script(page, colours)
    screenshot.dark(page, False)
    assert all(a != b for a, b in zip(light, dark, strict=True)), (light, dark)
    assert light[0] == "rgb(255, 255, 255)"


def test_prints_without_panels(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert script(page, "getComputedStyle(document.querySelector('.layout > nav')).display") == "none"
        assert script(page, "getComputedStyle(document.querySelector('.verdict')).display") != "none"
        opened = "getComputedStyle(document.querySelector(arguments[0]), '::details-content').contentVisibility"
        assert script(page, opened, ".verdict") == script(page, opened, ".laws") == "visible"
        pdf = page.execute_cdp_cmd("Page.printToPDF", {"pageRanges": "1"})["data"]
        assert len(pdf) > 1000
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_everything_is_there_without_javascript(browser: Any, pages: tuple[str, ...]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        load(browser, pages[0])
        assert len(browser.find_elements("css selector", "#cell-table tbody tr")) == 80
        assert browser.find_element("css selector", "#dimension svg").is_displayed()
        rest = browser.find_element("css selector", "#dimension details.rest")
        assert not rest.find_element("css selector", "figure").is_displayed()
        rest.find_element("css selector", "summary").send_keys("\n")
        assert rest.find_element("css selector", "figure").is_displayed()
        load(browser, pages[0] + "#c3")
        assert browser.find_element("id", "c3").is_displayed(), "evidence opens by its address alone"
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_comparison_page_works(browser: Any, pages: tuple[str, ...]) -> None:
    screenshot.size(browser, 1280, 900)
    load(browser, pages[1])
    assert "24 differ" in browser.find_element("css selector", ".lead").text
    assert browser.find_element("css selector", "#ratios svg").is_displayed()
    assert browser.get_log("browser") == []


def test_screenshot_is_small_enough_for_the_readme(files: tuple[Path, Path], tmp_path: Path) -> None:
    made = screenshot.take(files[0], tmp_path / "report.png")
    assert made.read_bytes().startswith(b"\x89PNG")
    assert 10_000 < os.path.getsize(made) < 300_000
    assert shutil.which("chromium") or os.environ.get("HOGRAD_CHROMIUM")


def test_page_speed_times_every_step(files: tuple[Path, Path]) -> None:
    found = page_speed.measure(files[0], times=1)
    steps = {"shown", "usable", "sort", "filter", "search", "choose a picture", "open evidence", "close it"}
    assert set(found) == steps | {"elements", "heap_mib"}
    assert all(found[step] > 0 for step in steps)
    assert found["elements"] > 1000
