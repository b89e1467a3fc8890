"""Every part of every claim can be confirmed and can be refuted: a claim that cannot fail is a defect."""

from __future__ import annotations

import functools
import itertools
import json
import re
from pathlib import Path

import claim_fakes as made
import pandas as pd
import pytest
from hograd_bench import claims, store
from hograd_bench.cells import Cell
from hograd_bench.claims import HOLDS, INSUFFICIENT, PARTIAL, REFUTED

CLAIMS = claims.load()
PARTS = [pytest.param(claim, part, id=part.id) for claim in CLAIMS for part in claim.parts]


@functools.cache
def frame_of(part_id, true):
    (part,) = (p for c in CLAIMS for p in c.parts if p.id == part_id)
    return made.frame_of(part, true)


@functools.cache
def judged(part_id, true):
    """The verdict on a part where it is true, or false; several tests ask for it."""
    claim, part = next((c, p) for c in CLAIMS for p in c.parts if p.id == part_id)
    return judge(claim, part, frame_of(part_id, true))


def judge(claim, part, frame):
    alone = claims.Claim(claim.id, claim.title, claim.statement, claim.source, (part,))
    (verdict,) = claims.adjudicate(frame, [alone], operations=made.operations)
    return verdict.parts[0]


@pytest.mark.slow
@pytest.mark.parametrize(("claim", "part"), PARTS)
@pytest.mark.parametrize("true", [True, False], ids=["true", "false"])
def test_part_is_confirmed_and_refuted(claim, part, true):
    verdict = judged(part.id, true)
    assert verdict.outcome == (HOLDS if true else REFUTED), claims.explain(
        claims.Verdict(claim, verdict.outcome, "", (verdict,), "", 0)
    )
    assert all(f.cells for f in verdict.findings)
    assert verdict.sentence.startswith("Holds in" if true else "Refuted in")


@pytest.mark.parametrize(("claim", "part"), PARTS)
def test_part_without_rows_or_without_ok_rows_is_not_decided(claim, part):
    frame = frame_of(part.id, True)
    assert judge(claim, part, frame.iloc[:0]).outcome == INSUFFICIENT
    statuses = itertools.cycle(("failed", "wrong", "unsupported", "oom"))
    broken = frame.assign(status=[next(statuses) for _ in range(len(frame))])
    assert judge(claim, part, broken).outcome == INSUFFICIENT
    bare = judge(claim, part, frame.drop(columns=part.metric))
    assert bare.outcome == INSUFFICIENT


SEVERAL = [p for p in PARTS if frame_of(p.values[1].id, True)["problem"].nunique() > 1]


@pytest.mark.parametrize(("claim", "part"), SEVERAL)
def test_part_that_differs_between_problems_holds_only_for_some(claim, part):
    good, bad = frame_of(part.id, True), frame_of(part.id, False)
    mine = min(good["problem"])
    cases = [f for f in judged(part.id, True).findings if f.group["problem"] == mine]
    if not cases:
        pytest.fail(f"{part.id} has no case on {mine}")
    mixed = pd.concat([good[good["problem"] == mine], bad[bad["problem"] != mine]], ignore_index=True)
    verdict = judge(claim, part, mixed)
    assert verdict.outcome == PARTIAL
    assert {f.outcome for f in verdict.findings if f.group["problem"] == mine} == {HOLDS}
    assert {f.outcome for f in verdict.findings if f.group["problem"] != mine} == {REFUTED}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
@pytest.mark.parametrize("true", [True, False], ids=["true", "false"])
def test_claim_follows_its_deciding_parts(claim, true):
    parts = [judged(part.id, true) for part in claim.parts if part.role == "claim"]
    from hograd_bench.claims._verdict_text import claim_outcome, claim_sentence

    outcome = claim_outcome(parts)
    assert outcome == (HOLDS if true else REFUTED)
    assert claim_sentence(claim, outcome, parts).startswith("Holds." if true else "Refuted.")


@pytest.mark.slow
def test_verdicts_are_plain_json():
    chosen = (CLAIMS[0], CLAIMS[4], CLAIMS[9], CLAIMS[18])
    frame = pd.concat([frame_of(c.parts[0].id, True) for c in chosen], ignore_index=True)
    verdicts = claims.adjudicate(frame, chosen, operations=made.operations)
    assert [v.claim.id for v in verdicts] == [c.id for c in chosen]
    text = json.dumps([v.as_dict() for v in verdicts], allow_nan=False)
    assert json.loads(text)[0]["outcome"] == HOLDS


def names_its_cell(finding):
    """Whether the cell of the worst case has the sizes that its words name, and is one that the finding rests on."""
    cell = Cell.parse(finding.worst_cell)
    symbols = {"T": "depth", "B": "batch", "k": "order", "n": "n"}
    named = re.findall(r"\b([nTBk])=(\S+?)(?=[,\s]|$)", finding.worst)
    return finding.worst_cell in finding.cells and all(getattr(cell, symbols[s]) == int(size) for s, size in named)


@pytest.mark.slow
def test_the_worst_case_names_its_cell():
    """On made rows and on real ones."""
    real = store.load(Path(__file__).parents[2] / "results" / "reference", details=False).rows
    parts = [judged(p.values[1].id, true) for p in PARTS for true in (True, False)]
    parts += [p for verdict in claims.adjudicate(real) for p in verdict.parts]
    worst = [(p.part.rule, f) for p in parts for f in p.findings if f.worst]
    assert [f for _, f in worst if not names_its_cell(f)] == []
    assert {rule for rule, _ in worst} >= {"bounded", "growth_at_most", "growth_equals", "beats", "step_at_least"}
