"""How often laws decide wrongly on data with known truth: ``python -m studies.laws synthetic``.

As Markdown: for every truth, disturbance and noise the share of wrong, right and undecided verdicts, the
coverage of prediction intervals at 4 times the largest size, and the exact laws that must and must not be found.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from hograd_bench.laws._outcomes import InsufficientData
from hograd_bench.laws.decisions import decide, decide_family
from hograd_bench.laws.exact import ExactLaw, fit_exact
from hograd_bench.laws.fitted import fit_power
from hograd_bench.laws.orders import fit_orders
from scipy import stats

from studies.laws import synthetic
from studies.laws.synthetic import Disturbance, Truth

COVERAGE = 0.9


@dataclass(frozen=True)
class Trial:
    """One verdict on one drawn data set.

    Attributes:
        kind: what was decided ("growth ≤ n", "exact law", ...).
        truth, disturbance: names.
        noise: relative.
        outcome: "right", "wrong", "undecided"; for predictions "covered", "missed".
    """

    kind: str
    truth: str
    disturbance: str
    noise: float
    outcome: str


def time_trials(
    trials: int,
    truths: Sequence[Truth] = synthetic.TIMES,
    disturbances: Sequence[Disturbance] = synthetic.DISTURBANCES,
    noises: Sequence[float] = synthetic.NOISES,
    seed: int = 0,
) -> Iterator[Trial]:
    """Verdicts "at most n", "at most n²", "like n²", and predictions, on times."""
    random = np.random.default_rng(seed)
    for truth in truths:
        for disturbance in disturbances:
            for noise in noises:
                for _ in range(trials):
                    x, y = synthetic.draw(truth, disturbance, noise, random)
                    law = fit_power(x, y)
                    for limit, equal in ((1.0, False), (2.0, False), (2.0, True)):
                        true = truth.exponent == limit if equal else truth.exponent <= limit
                        verdict = decide(law, "n", limit, equal=equal)
                        kind = f"growth {'like' if equal else '≤'} n^{limit:g}"
                        yield Trial(kind, truth.name, disturbance.name, noise, graded(verdict, true))
                    if not isinstance(law, InsufficientData):
                        size = 4 * max(x)
                        new = truth.value(size) * math.exp(noise * random.standard_normal())
                        told = law.predict(size, COVERAGE)
                        outcome = "covered" if told.low <= new <= told.high else "missed"
                        yield Trial("prediction", truth.name, disturbance.name, noise, outcome)


def order_trials(
    trials: int,
    truths: Sequence[Truth] = synthetic.ORDERS,
    noises: Sequence[float] = synthetic.NOISES,
    last_orders: Sequence[int] = (4, 5, 6),
    seed: int = 1,
) -> Iterator[Trial]:
    """Verdicts "exponential in the order"."""
    random = np.random.default_rng(seed)
    for truth in truths:
        for last in last_orders:
            for noise in noises:
                for _ in range(trials):
                    points = {
                        k: truth.value(k) * math.exp(noise * random.standard_normal()) for k in range(1, last + 1)
                    }
                    law = fit_orders(points, noise=max(0.05, min(noise, 0.1)))
                    verdict, _, _ = decide_family(law, ("exponential", "factorial"))
                    outcome = graded(verdict, truth.exponent == math.inf)
                    yield Trial("exponential in k", truth.name, f"orders 1-{last}", noise, outcome)


def exact_trials(trials: int, seed: int = 2) -> Iterator[Trial]:
    """Exact laws: found and right where there is one, not found where there is none."""
    random = np.random.default_rng(seed)
    for _ in range(trials):
        grid: list[tuple[int, ...]] = [(int(n), int(t)) for n in (8, 16, 32) for t in (2, 3, 4, 6, 8, 12)]
        c = [int(v) for v in random.integers(-9, 30, size=4)]
        truth = {s: 4 * (abs(c[0]) * s[0] * s[1] + c[1] * s[0] + c[2] * s[1]) + c[3] for s in grid}
        small = {s: y + (int(random.integers(1, 50)) if s[1] <= 2 else 0) for s, y in truth.items()}
        for name, data in (("polynomial in n, T", truth), ("the same from T = 3 on", small)):
            law = fit_exact(data, ("n", "depth"), unit=4)
            far = {"n": 128, "depth": 48}
            expected = 4 * (abs(c[0]) * 128 * 48 + c[1] * 128 + c[2] * 48) + c[3]
            right = isinstance(law, ExactLaw) and law.predict(far) == expected
            outcome = "right" if right else "wrong" if isinstance(law, ExactLaw) else "undecided"
            yield Trial("exact law, predicted at 4 × n, T", name, "18 sizes", 0.0, outcome)
        base = float(random.uniform(1.3, 3.0))
        none: dict[str, dict[tuple[int, ...], int]] = {
            "exponential": {(t,): int(1000 * base**t) for t in range(2, 12)},
            "1% noise": {(t,): int(1e6 * t * math.exp(0.01 * random.standard_normal())) for t in range(2, 12)},
            "T log T": {(t,): int(1e4 * t * math.log(t)) for t in range(2, 12)},
        }
        for name, other in none.items():
            outcome = "wrong" if isinstance(fit_exact(other, ("depth",)), ExactLaw) else "right"
            yield Trial("no exact law", name, "10 sizes", 0.0, outcome)


def graded(verdict: str, true: bool) -> str:
    """A verdict on a statement whose truth is known."""
    if verdict not in ("holds", "refuted"):
        return "undecided"
    return "right" if (verdict == "holds") == true else "wrong"


def table(trials: Iterable[Trial], by: Sequence[str]) -> str:
    """Markdown: one line a group, with the shares of outcomes and the upper 95% bound of the wrong ones."""
    counts: dict[tuple[object, ...], Counter[str]] = defaultdict(Counter)
    for trial in trials:
        counts[tuple(getattr(trial, name) for name in by)][trial.outcome] += 1
    lines = [
        "| " + " | ".join(by) + " | trials | wrong | wrong, 95% bound | right | undecided |",
        "|" + "---|" * (len(by) + 5),
    ]
    for key, seen in counts.items():
        total = sum(seen.values())
        wrong = seen["wrong"] + seen["missed"]
        bound = float(stats.beta.ppf(0.95, wrong + 1, total - wrong)) if wrong < total else 1.0
        right = seen["right"] + seen["covered"]
        shown = [f"{k:.0%}" if isinstance(k, float) else str(k) for k in key]
        cells = [*shown, str(total), f"{wrong / total:.2%}", f"{bound:.2%}"]
        lines.append("| " + " | ".join([*cells, f"{right / total:.1%}", f"{seen['undecided'] / total:.1%}"]) + " |")
    return "\n".join(lines)


def tables(trials: int, seed: int = 0) -> str:
    """The study as Markdown.

    Args:
        trials: data sets per truth, disturbance and noise.
        seed: of all draws.
    """
    times = list(time_trials(trials, seed=seed))
    verdicts = [t for t in times if t.kind != "prediction"]
    orders = list(order_trials(trials, seed=seed + 1))
    exact = list(exact_trials(trials, seed=seed + 2))
    sections = (
        ("All verdicts", table(verdicts + orders + exact, ("kind",))),
        ("Growth of times, by truth", table(verdicts, ("truth",))),
        ("Growth of times, by noise", table(verdicts, ("noise",))),
        ("Growth of times, by disturbance", table(verdicts, ("disturbance",))),
        ("Growth in the order", table(orders, ("truth", "disturbance"))),
        ("Exact laws", table(exact, ("kind", "truth"))),
        (
            f"Predictions at 4 times the largest size, intervals meant to cover {COVERAGE:.0%}",
            table([t for t in times if t.kind == "prediction"], ("noise", "disturbance")),
        ),
    )
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in sections)
