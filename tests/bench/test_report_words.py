"""The report's words: short lines, metrics by their names to readers, what a claim's growth is."""

from __future__ import annotations

from typing import Any

import pytest
from hograd_bench import claims
from hograd_bench.report import text
from hograd_bench.report.verdicts import views


@pytest.mark.parametrize(
    ("outcome", "degree", "limit", "said"),
    [
        (claims.REFUTED, 1.0, 2, "Linear in T, not T²"),
        (claims.HOLDS, 2.0, 2, "Quadratic in T"),
        (claims.HOLDS, 0.0, 1, "Independent of T"),
        (claims.REFUTED, 1.0, "order", "Linear in T, not T³"),
    ],
)
def test_a_growth_is_said_in_words(outcome: str, degree: float, limit: Any, said: str) -> None:
    part = claims.load()[0].parts[0]
    part = type(part)(**{**vars(part), "role": "claim", "parameters": {"variable": "depth", "limit": limit}})
    law = "peak_bytes = 4·(T + 1) for T ≥ 2"
    group = {"method": "m", "problem": "p", "order": 3}
    finding = claims.Finding(part.id, group, outcome, "peak_bytes grows", law, value=degree, worst="peak_bytes = 12 B")
    judged = claims.PartVerdict(part, outcome, "In words.", (finding,))
    (view,) = views([claims.Verdict(claims.load()[0], outcome, "Said. In words.", (judged,), "m: worst", 1)], {})
    assert view["gist"] == f"{said}. m on p (order 3): peak bytes = 4·(T + 1) for T ≥ 2"
    assert view["worst_gist"] == "", "the law says it all"


def worst_of(*findings: claims.Finding, rule: str) -> str:
    part = claims.load()[0].parts[0]
    parameters = {"variable": "n", "limit": 1}
    part = type(part)(**{**vars(part), "role": "claim", "rule": rule, "parameters": parameters})
    judged = claims.PartVerdict(part, claims.PARTIAL, "In words.", findings)
    held = f"{findings[0].name}: {findings[0].worst}"
    (view,) = views([claims.Verdict(claims.load()[0], claims.PARTIAL, "Said. In words.", (judged,), held, 1)], {})
    assert "seconds" not in view["gist"], "a comparison is told by who wins where, not by a list of ratios"
    return str(view["worst_gist"])


def test_the_worst_case_of_a_growth_is_its_law() -> None:
    """A figure at the largest size tells nothing: any grows."""
    group = {"method": "m", "problem": "p"}
    worst = "flops = 68094720 at n=256"
    found = claims.Finding("x", group, claims.REFUTED, "", "flops = n² + 1", value=2.0, worst=worst)
    fitted = claims.Finding("x", group, claims.HOLDS, "", "", worst=worst)
    assert worst_of(found, rule="growth_at_most") == "Quadratic in n, not n. m on p: flops = n² + 1"
    assert worst_of(fitted, rule="growth_at_most") == ""
    assert worst_of(fitted, rule="bounded") == "m on p: flops = 68094720 at n = 256"


def test_what_is_compared_is_named_once() -> None:
    group = {"problem": "Mine", "comparison": "a against b"}
    worst = "a takes 2 times what b takes at n=16384"
    found = claims.Finding("x", group, claims.PARTIAL, "by gradients, b beats a", "seconds", worst=worst)
    assert worst_of(found, rule="beats") == "On Mine: a takes 2 times what b takes at n = 16,384"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("at n=16384, T=2", "at n = 16,384, T = 2"),
        ("at every n = 256 to 1048576.", "at every n = 256 to 1,048,576."),
        ("hvp/m/p/n=16384,order=2,depth=1/float32", "hvp/m/p/n=16384,order=2,depth=1/float32"),
        ("within 1 to 10000.5", "within 1 to 10000.5"),
        ("from k ≈ 3.38 on", "from k ≈ 3.38 on"),
    ],
)
def test_sizes_are_written_as_everywhere(told: str, said: str) -> None:
    assert text.in_words(told) == said


def test_columns_are_called_what_readers_call_them() -> None:
    assert text.in_words("peak_bytes = 3, seconds_min < 2 and no_such_metric") == (
        "peak bytes = 3, time < 2 and no_such_metric"
    )


def test_clean_is_one_short_line() -> None:
    assert text.clean("a\nb\x00\x1b[31m\u202ec") == "a b [31m c"
    assert len(text.clean("x" * 1000, 30)) == 30


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("2026-11-26T19:38:59.123456+00:00", "2026-11-26 19:38"),
        ("20261126T193859Z-ab", "20261126T193859Z-ab"),
        ("<b>no time at all, and long", "<b>no time at all,…"),
        (None, "None"),
    ],
)
def test_minute(moment: object, said: str) -> None:
    assert text.minute(moment) == said


@pytest.mark.parametrize(
    ("whole", "limit", "said"),
    [
        ("Short. And whole.", 40, "Short. And whole."),
        ("One sentence of a claim. Another that is too long.", 40, "One sentence of a claim."),
        ("One that fits; another that is too long for it.", 24, "One that fits"),
        ("n=8: 1.63, n=16: 1.81, n=32: 2.17", 25, "n=8: 1.63, n=16: 1.81 …"),
        ("Too little. E.g. a case that is long", 18, "Too little."),
        ("Too little of it. E.g. a case that is long", 30, "Too little of it."),
        ("no end is 3.5 near enough to be taken", 22, "no end is 3.5 near …"),
        ("A third of it said. Then a list a, b, c, d, e and more", 50, "A third of it said."),
        ("x" * 100, 20, "x" * 19 + "…"),
    ],
)
def test_a_gist_ends_with_a_sentence_or_a_word(whole: str, limit: int, said: str) -> None:
    assert text.gist(whole, limit) == said
