"""docs/atlas.md from the facts: a pure function."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from studies.atlas import families
from studies.atlas.reproductions import PROGRAMS
from studies.atlas.truth import NOT_THAT_OF_VALUES

Facts = Mapping[str, Any]


def amount(errors: Sequence[float]) -> str:
    """A range of relative errors."""
    low, high = (">1000" if e >= 1000 else f"{e:.2g}" if e < 10 else f"{e:.0f}" for e in (min(errors), max(errors)))
    return low if low == high else f"{low}–{high}"


def wrong(operator: Mapping[str, Any], order: int, taylor: bool = False) -> dict[str, list[float]]:
    """Method -> its errors at an order; Taylor methods or all others."""
    return {
        method: list(by.values())
        for k, method, by in operator.get("wrong", ())
        if k == order and (method in families.TAYLOR) is taylor
    }


def _cell(found: Mapping[str, list[float]], methods: Sequence[str]) -> str:
    if not found:
        return ""
    errors = [e for es in found.values() for e in es]
    who = "all" if set(found) == set(methods) else ", ".join(sorted(found))
    return f"{who}: {amount(errors)}"


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return ["", _row(*head), "|" + "---|" * len(head), *(_row(*row) for row in rows), ""] if rows else []


def _wrong_rows(operators: Sequence[Mapping[str, Any]], facts: Facts, taylor: bool = False) -> list[list[object]]:
    rows: list[list[object]] = []
    for operator in operators:
        cells = []
        for order in (2, 3):
            able = [m for m, orders in facts["methods"].items() if order in orders and (m in families.TAYLOR) is taylor]
            cells.append(_cell(wrong(operator, order, taylor), able))
        if any(cells):
            touched = {s for _, method, by in operator["wrong"] if (method in families.TAYLOR) is taylor for s in by}
            rows.append([f"`{operator['op']}`", *cells, f"{len(touched)} of {len(operator['samples'])}"])
    return rows


def _is_wrong(operator: Mapping[str, Any], taylor: bool = False) -> bool:
    return any(wrong(operator, order, taylor) for order in (2, 3))


def _present(facts: Facts) -> list[families.Family]:
    """Families with a wrong operator."""
    nodes = {node for o in facts["operators"] if _is_wrong(o) for node in o.get("nodes", ())}
    return [family for family in families.FAMILIES if family.nodes & nodes]


def _family_sections(facts: Facts, among: Sequence[families.Family]) -> Iterator[str]:
    head = ("operator", "order 2", "order 3", "samples")
    left = [o for o in facts["operators"] if _is_wrong(o)]
    for family in among:
        members = [o for o in left if family.nodes & set(o.get("nodes", ()))]
        yield from _described(family, _table(head, _wrong_rows(members, facts)))


def _described(family: families.Family, table: Sequence[str]) -> Iterator[str]:
    issues = ", ".join(f"[#{n}](https://github.com/pytorch/pytorch/issues/{n})" for n in family.issues)
    supposed = " (Inferred from what is wrong, not read in the source.)" if family.supposed else ""
    yield from (f"### {family.name}", "")
    yield family.fault + supposed + (f" PyTorch's issues: {issues}." if issues else "")
    yield from table or [""]
    for program in family.programs:
        yield from ("```python", PROGRAMS[program].strip(), "print(got, expected)", "```", "")


def _untraced(facts: Facts) -> Iterator[str]:
    head = ("operator", "order 2", "order 3", "samples")
    rest = [o for o in facts["operators"] if _is_wrong(o) and not families.of(o.get("nodes", ()))]
    if rest:
        yield from ("### Not traced to a formula yet", "")
        yield from _table((*head, "nodes"), [
            [*row, " ".join(o.get("nodes", ()))]
            for o in rest for row in _wrong_rows([o], facts)
        ])  # fmt: skip
    own = [o for o in facts["operators"] if _is_wrong(o, taylor=True)]
    yield from ("### hograd's own Taylor methods", "")
    if own:
        yield "Faults of `hograd_core/taylor`, not of PyTorch, unless the operator also stands above."
        yield from _table(head, _wrong_rows(own, facts, taylor=True))
    else:
        yield "None."
        yield ""


def _first_order(facts: Facts) -> Iterator[str]:
    rows = []
    for operator in facts["operators"]:
        samples = [s for _, why, found in operator.get("doubts", ()) if why == NOT_THAT_OF_VALUES for s in found]
        if samples:
            rows.append([f"`{operator['op']}`", f"{len(samples)} of {len(operator['samples'])}",
                         f"`{operator['samples'][samples[0]]}`"])  # fmt: skip
    yield from _table(("operator", "samples", "the first"), rows)


def _reproductions(old: Facts, new: Facts) -> Iterator[str]:
    for name, was in old["reproductions"].items():
        now = new["reproductions"].get(name, was)
        if was != now:
            yield f'- Reproduction "{name}": {was} in {old["torch"]}, {now} in {new["torch"]}.'


def _nonfinite(facts: Facts) -> Iterator[str]:
    rows = []
    for operator in facts["operators"]:
        by: dict[int, set[str]] = defaultdict(set)
        for status, order, _, names, _ in operator.get("rest", ()):
            if status == "nonfinite":
                by[order] |= set(names)
        if by:
            rows.append([f"`{operator['op']}`", *(", ".join(sorted(by[order])) for order in (2, 3))])
    yield "f, its gradient and the truth are finite; the result holds NaN or infinity."
    yield from _table(("operator", "order 2", "order 3"), rows)
    for family in families.FAMILIES:
        if family.nonfinite:
            yield from _described(family, [])


def _counts(facts: Facts, status: str) -> Iterator[str]:
    """By message: which methods, at how many operators."""
    where: dict[str, set[str]] = defaultdict(set)
    who: dict[str, Counter[str]] = defaultdict(Counter)
    for operator in facts["operators"]:
        for kind, _, message, names, _ in operator.get("rest", ()):
            if kind == status:
                message = re.sub(r"(no Taylor rule for \S+).*", r"\1", message)
                text = re.sub(r"(?<![\w.])\d+(?![\w.])", "n", message)  # sizes and ids tell samples apart, not faults
                where[text].add(operator["op"])
                who[text].update(names)
    rows = []
    for message, names in sorted(where.items(), key=lambda item: (-len(item[1]), item[0])):
        some = ", ".join(f"`{n}`" for n in sorted(names)[:4]) + (", …" if len(names) > 4 else "")
        rows.append([f"`{message}`" if message else "", len(names), some, ", ".join(sorted(who[message]))])
    yield from _table(("message", "operators", "which", "methods"), rows)


def _by_method(facts: Facts) -> Iterator[str]:
    """Method x order: operators with at least one sample of each status."""
    seen: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for operator in facts["operators"]:
        found: dict[tuple[str, int], set[str]] = defaultdict(set)
        for order, method, _ in operator.get("wrong", ()):
            found[method, order].add("wrong")
        for status, order, _, names, _ in operator.get("rest", ()):
            for method in names:
                found[method, order].add(status)
        for key, statuses in found.items():
            seen[key].update(statuses)
    kinds = ("wrong", "nonfinite", "unsupported", "raised")
    rows = [
        [method, order, *(seen[method, order][kind] or "" for kind in kinds)]
        for method, orders in facts["methods"].items()
        for order in orders
    ]
    yield from _table(("method", "order", *kinds), rows)


def _changes(old: Facts, new: Facts) -> Iterator[str]:
    """What differs between two versions, by operator, order and method, from the samples both have."""
    from studies.atlas.facts import statuses

    before = {o["op"]: o for o in old["operators"]}
    grouped: dict[tuple[str, int, str, str], set[str]] = defaultdict(set)
    for operator in new["operators"]:
        other = before.get(operator["op"])
        if other is None:
            continue
        was, now = statuses(other, old["methods"]), statuses(operator, new["methods"])
        for key in sorted(was.keys() & now.keys()):
            if was[key] != now[key]:
                grouped[operator["op"], key[1], was[key], now[key]].add(key[2])
    rows = [[f"`{op}`", order, a, b, ", ".join(sorted(ms))] for (op, order, a, b), ms in sorted(grouped.items())]
    yield from _table(("operator", "order", old["torch"], new["torch"], "methods"), rows)
    if not rows:
        yield "No status differs."
    against = new["settings"].get("against")
    if against:
        yield (
            f"{new['torch']} has a short run: {len(new['operators'])} operators, those that are not right in {against} "
            f"and a fifth of the rest, at most {new['settings']['samples']} samples each."
        )
        yield ""
        return
    gone = sorted(before.keys() - {o["op"] for o in new["operators"]})
    come = sorted({o["op"] for o in new["operators"]} - before.keys())
    for word, names in (("Only in", gone), ("New in", come)):
        if names:
            version = old["torch"] if word == "Only in" else new["torch"]
            yield f"{word} {version}: {', '.join(f'`{n}`' for n in names)}."
            yield ""


def _doubts(facts: Facts) -> Iterator[str]:
    counts: Counter[str] = Counter()
    for operator in facts["operators"]:
        for _, reason, samples in operator.get("doubts", ()):
            counts[reason] += len(samples)
    yield from _table(("why", "samples"), counts.most_common())


def _samples(facts: Facts) -> tuple[int, int]:
    """Samples, and those that are judged at order 2."""
    total = sum(len(o["samples"]) for o in facts["operators"])
    doubted = sum(
        len({s for order, _, samples in o.get("doubts", ()) if order in (0, 2) for s in samples})
        for o in facts["operators"]
    )
    return total, total - doubted


def page(versions: Mapping[str, Facts]) -> str:
    """The page, from the facts of each torch version, the oldest first; tables are of the oldest, then what changed."""
    first = next(iter(versions.values()))
    total, judged = _samples(first)
    lines = [
        "# Atlas of higher-order derivatives in PyTorch",
        "",
        "<!-- Made by `nox -s atlas -- page` from docs/data/atlas-*.json; edits are lost. -->",
        "",
        f"torch {first['torch']}, CPU: {len(first['operators'])} operators, {total} samples, {judged} with a truth, "
        f"each by {len(first['methods'])} methods at orders 2 and 3. Numbers are relative errors against differences "
        "of gradients; what is not listed is right.",
        "",
        "## Wrong",
        "",
        "Finite results that are not the derivative, without an error or a warning.",
        "",
        *_family_sections(first, _present(first)),
        *_untraced(first),
        "## Wrong at order 1",
        "",
        "The gradient itself is not that of the values, which leaves no truth for more. Operators that are meant to be "
        "so (straight-through rounding, kinks) are among them.",
        *_first_order(first),
        "## Not finite",
        "",
        *_nonfinite(first),
        "## By method",
        "",
        "Operators with at least one sample of that status.",
        *_by_method(first),
        "## Unsupported",
        "",
        "PyTorch refuses, with a message that says so.",
        *_counts(first, "unsupported"),
        "## Other errors",
        "",
        "Exceptions that do not say what is unsupported.",
        *_counts(first, "raised"),
    ]
    pairs = list(versions.values())
    for old, new in itertools.pairwise(pairs):
        lines += [f"## From {old['torch']} to {new['torch']}", "", *_reproductions(old, new), *_changes(old, new)]
        lines += _family_sections(new, [f for f in _present(new) if f not in _present(old)])
    lines += [
        "## How it is measured",
        "",
        "- Operators and samples: PyTorch's own database (`torch.testing._internal.common_methods_invocations.op_db`, "
        "the samples that its gradient checks use) and the cases in `bench/studies/atlas/own.py`. Of each operator at "
        f"most {first['settings']['samples']} samples, first those that differ in what is no tensor.",
        "- f(z) = ⟨w, exp(s·op(x₀ + P z))⟩: z has five elements (fewer where the inputs have fewer), P fixed random "
        "directions in all differentiable inputs together, w fixed random weights, s a scale that makes the output at "
        "most 1. Five numbers make all nᵏ entries cheap, and exp gives linear operators derivatives to get wrong.",
        "- Truth: central differences of float64 gradients by one plain reverse sweep, at two steps that must agree "
        "within a tenth of the tolerance; the gradient itself must agree with differences of values. No method takes "
        "part.",
        "- Compared along random directions (two at order 2, one at order 3); of a tensor of all entries every slot is "
        "left open in turn. Relative to the truth's norm, at least a thousandth of the gradient's. Wrong is above "
        "0.001 at order 2, above 0.01 at order 3.",
        "- Each method runs as hograd's raw kernel, without the guard that refuses what stands above.",
        "- Not here: complex inputs of the database (own cases go through real and imaginary parts), sparse layouts, "
        "devices other than the CPU, torch.compile.",
        "",
        "No truth, and therefore not judged:",
        *_doubts(first),
        "## To reproduce",
        "",
        "```",
        "nox -s atlas                          # measures, then writes this page; resumes where it was cut off",
        "nox -s atlas -- run --ops linalg.det  # some operators, printed",
        "nox -s atlas -- page                  # this page from the facts that lie there",
        "```",
    ]
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text + "\n"
