from __future__ import annotations

import pytest
from claim_fakes import frame_of
from hograd_bench import claim_cells, claims

MINIMAL = """
[[claim]]
id = "X1"
title = "t"
statement = "s"
source = "o"
[[claim.part]]
id = "X1a"
says = "It grows like n."
rule = "growth_equals"
variable = "n"
limit = 1
metric = "peak_bytes"
refuted_by = "another degree"
cells = { operator = "hvp", problems = ["quadratic"], n = [1, 2] }
"""


def load(tmp_path, text):
    path = tmp_path / "claims.toml"
    path.write_text(text, encoding="utf-8")
    return claims.load(path)


def test_all_claims_of_the_mission_are_there():
    ids = [c.id for c in claims.load()]
    assert ids == [f"C{i}" for i in range(1, 15)] + [f"F{i}" for i in range(1, 13)]


def test_every_part_says_what_would_refute_it_and_needs_cells_that_exist():
    for claim in claims.load():
        assert claim.source
        assert claim_cells.needed_cells(claim), claim.id
        for part in claim.parts:
            assert part.refuted_by
            assert part.says.endswith(".")


def test_the_plan_is_affordable_and_each_cell_is_planned_once():
    planned = claim_cells.planned()
    ids = [p.cell.id for p in planned]
    assert len(ids) == len(set(ids))
    attempted = [p for p in planned if p.skip is None]
    assert len(attempted) < 1900
    assert sum("time" in p.families for p in attempted) < 700


def test_a_cell_is_planned_with_every_family_that_some_claim_wants():
    (c1,) = (c for c in claims.load() if c.id == "C1")
    (f4,) = (c for c in claims.load() if c.id == "F4")
    shared = set(claim_cells.needed_cells(c1)) & set(claim_cells.needed_cells(f4))
    assert shared
    for planned in claim_cells.planned([c1, f4]):
        if planned.cell in shared:
            assert set(planned.families) >= {"memory", "counts"}


def test_a_baseline_is_part_of_what_a_claim_needs():
    (c8,) = (c for c in claims.load() if c.id == "C8")
    cells = claim_cells.needed_cells(c8)
    gradients = {(c.problem, c.n) for c in cells if c.operator == "gradient"}
    assert {(c.problem, c.n) for c in cells if c.problem in ("mlp", "log_sum_exp")} <= gradients


def test_missing_cells_are_those_without_a_row():
    import pandas as pd

    (c1,) = (c for c in claims.load() if c.id == "C1")
    cells = claim_cells.needed_cells(c1)
    have = pd.DataFrame([{**c.as_dict(), "cell": c.id} for c in cells[:-3]])
    assert [p.cell for p in claim_cells.missing_cells(have, [c1])] == cells[-3:]
    assert len(claim_cells.missing_cells(have.iloc[:0], [c1])) == len(cells)
    assert not claim_cells.missing_cells(pd.DataFrame([c.as_dict() for c in cells]), [c1])


def test_minimal_file(tmp_path):
    (claim,) = load(tmp_path, MINIMAL)
    assert claim.parts[0].role == "claim"
    assert claim.parts[0].parameters == {"variable": "n", "limit": 1}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "t"', "", "X1: no title"),
        ('says = "It grows like n."', "", "X1a: no says"),
        ('rule = "growth_equals"', 'rule = "guess"', "got rule 'guess'"),
        ("limit = 1", "", "no parameter 'limit'"),
        ("limit = 1", "limit = 1\nlimits = 2", "unknown parameter 'limits'"),
        ('id = "X1a"', 'id = "X1"', "occurs twice"),
        ('id = "X1a"', 'id = "X1a"\nrole = "hero"', "got role 'hero'"),
        ('id = "X1a"', 'id = "X1a"\nrole = "refined"', "nothing decides it"),
        ('source = "o"', 'source = "o"\ncolour = 1', "unknown field 'colour'"),
        ("[[claim]]", "[claim", "no TOML"),
    ],
)
def test_faults_are_named(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, MINIMAL.replace(old, new))


def test_empty_file(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        load(tmp_path, "")


@pytest.mark.parametrize("change", ["hvp|nonesuch", "quadratic|nonesuch"])
def test_cells_that_do_not_exist_are_named_with_the_part(tmp_path, change):
    old, new = change.split("|")
    (claim,) = load(tmp_path, MINIMAL.replace(old, new))
    with pytest.raises(ValueError, match=r"X1a.*nonesuch"):
        claim_cells.needed_cells(claim)


@pytest.mark.parametrize("true", [True, False])
def test_a_new_claim_is_one_entry(tmp_path, true):
    """Appended to the file it is planned, judged by its rows, and on the page."""
    text = MINIMAL.replace("n = [1, 2]", "n = [8, 16, 32, 64, 128]")
    (*_, mine) = load(tmp_path, claims.CLAIMS.read_text(encoding="utf-8") + text)
    assert {cell.n for cell in claim_cells.needed_cells(mine)} == {8, 16, 32, 64, 128}
    (verdict,) = claims.adjudicate(frame_of(mine.parts[0], true), [mine])
    assert verdict.outcome == (claims.HOLDS if true else claims.REFUTED)
    assert "X1" in claims.render_markdown([verdict], [])
