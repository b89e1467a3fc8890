"""How bytes and times moved over the runs, with changes of torch marked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from hograd_bench.report import history, style, text
from hograd_bench.report.data import ReportData
from hograd_bench.report.figures._contract import Drawn, panel
from hograd_bench.report.palette import ordinal

ORDER = 900
TITLE = "History"
ABOUT = (
    "Each operator over the runs of a machine, against its first run: the geometric mean over the cells that two "
    "neighbouring runs share, chained. Bytes are exact, so that any step is a change of code or of torch; times in "
    "gradients move with the machine's mood as well. Dashed: another torch. A line only joins the runs, and "
    "ends with the last that shared a cell with the run before."
)
_PANELS = (("peak_bytes", "Peak bytes, first run = 1"), ("gradient_equivalents", "Time in gradients, first run = 1"))


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture a machine with several runs."""
    rows = data.everything
    paired = history.steps(rows)
    for number, (machine, part) in enumerate(paired.groupby("machine", observed=True, sort=True)):
        runs = sorted(rows.loc[rows["machine"] == machine, "run"].unique())
        versions = [history.fact(data.environments.get((str(machine), r), {}), "torch", "version") for r in runs]
        recorded = [data.environments.get((str(machine), r), {}).get("recorded") or r for r in runs]
        moments = [text.minute(r) for r in recorded]
        # To the day, where that tells them apart.
        days = [m[:10] if len({n[:10] for n in moments}) == len(moments) else m.replace(" ", "\n") for m in moments]
        commits = [history.fact(data.environments.get((str(machine), r), {}), "source", "commit")[:7] for r in runs]
        if len({*commits, "unknown"}) > len(runs):  # a commit each
            days = commits
        panels: list[str] = []
        for metric, label in _PANELS:
            both = part[(part[metric] > 0) & (part[f"was_{metric}"] > 0)] if metric in part else part.iloc[:0]
            if len(both):
                panels.append(_panel(both, runs, days, versions, metric, label, f"history-{number}-{len(panels)}"))
        if panels:
            name = text.clean(machine, 60)
            yield Drawn(f"history-{number}", f"{len(runs)} runs on {name}", {"machine": name}, panels)


def _panel(
    both: pd.DataFrame, runs: list[str], days: list[str], versions: list[str], metric: str, label: str, name: str
) -> str:
    place = {run: i for i, run in enumerate(runs)}
    figure, axes = style.canvas(5.4, 3.3)
    step = (both[metric] / both[f"was_{metric}"]).map(np.log)
    drawn, ends, said, seen = [], [], [], [1.0]
    for i, (operator, logs) in enumerate(step.groupby(both["operator"], observed=True, sort=True)):
        means = logs.groupby(both.loc[logs.index, "run"]).mean()
        chained = np.exp(np.cumsum(means.to_numpy(dtype=float)))
        at = [place[str(run)] for run in means.index]
        chain = pd.DataFrame({"run": [at[0] - 1, *at], "ratio": [1.0, *chained.tolist()]})
        look, last = ordinal(i), float(chained[-1])
        style.line(axes, chain, "run", "ratio", look, drawstyle="steps-post" if len(runs) > 12 else "default")
        drawn.append(style.Series(chain, look))
        ends.append((text.operator_name(str(operator)), last, look))
        said.append(f"{operator} ends at {last:.3g}")
        seen += chain["ratio"].to_list()
    if len(runs) <= 40:
        style.points(axes, drawn, "run", "ratio", 14)
    for i in range(1, len(runs)):
        if versions[i] != versions[i - 1]:
            style.limit(axes, i - 0.5)
            axes.annotate(
                text.clean(versions[i], 16), (i - 0.5, 1), xycoords=("data", "axes fraction"), xytext=(3, -2),
                textcoords="offset points", fontsize=8, va="top",
            )  # fmt: skip
    axes.set_ylim(min(0.95 * min(seen), 0.9), max(1.05 * max(seen), 1.1))
    style.ratios(axes)
    axes.set_xlim(-0.3, len(runs) - 0.7)
    ticks = sorted({0, len(runs) // 2, len(runs) - 1})
    axes.set_xticks(ticks, [days[i] for i in ticks])
    style.heading(axes, label)
    style.label_ends(axes, ends)
    return panel(figure, name, f"{label}, over {len(runs)} runs. " + "; ".join(said))
