"""What changed between commits: versions in their order, the cells that changed most, steps that name their commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_fakes as fakes
from hograd_bench import store
from hograd_bench.report import history
from hograd_bench.report.data import ReportData, report_data
from hograd_bench.report.figures import _contract, commits
from hograd_bench.report.style import style

OLD, MID, NEW = ("a" * 40, "2026-01-01"), ("b" * 40, "2026-01-03"), ("c" * 40, "2026-01-05")


def data_of(folder: Path, *runs: tuple[tuple[str, str], int, dict[str, Any]]) -> ReportData:
    """Runs in the order in which they were measured: (commit and its day, bytes more, more of the environment)."""
    for number, ((commit, day), extra, more) in enumerate(runs):
        source = {"commit": commit, "committed": f"{day}T00:00:00+00:00", "dirty": False, **more.pop("source", {})}
        run = f"2026020{number}T000000Z-aaaaaaaa"
        fakes.write(folder, run, fakes.rows(run, extra=extra), source=source, **more)
    return report_data(store.load(folder))


def panels(data: ReportData, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Any]]:
    """The pictures, and the axes of all their panels."""
    kept: list[Any] = []

    def keep(figure: Any, name: str, alt: str) -> str:
        kept.append(figure.axes[0])
        return alt

    monkeypatch.setattr(_contract, "svg", keep)
    with style():
        return list(commits.draw(data)), kept


def names(data: ReportData) -> list[str]:
    return [v.name for v in history.versions(data, fakes.MACHINE, data.everything["run"].unique())]


def test_versions_stand_in_the_order_of_their_commits(tmp_path: Path) -> None:
    """An older commit that was measured later comes first all the same."""
    assert names(data_of(tmp_path, (NEW, 0, {}), (OLD, 0, {}), (MID, 0, {}))) == ["aaaaaaa", "bbbbbbb", "ccccccc"]


def test_a_commit_is_one_version_but_for_changed_files_and_another_torch(tmp_path: Path) -> None:
    torch = {"torch": {**fakes.ENVIRONMENT["torch"], "version": "2.14.0"}}
    data = data_of(tmp_path, (OLD, 0, {}), (OLD, 8, {}), (OLD, 0, torch), (OLD, 0, {"source": {"dirty": True}}))
    assert names(data) == ["aaaaaaa", "aaaaaaa", "aaaaaaa+"]
    made = history.versions(data, fakes.MACHINE, data.everything["run"].unique())
    assert [len(v.runs) for v in made] == [2, 1, 1]
    seen = history.by_version(data.everything, made, ["peak_bytes"])
    last = data.everything[data.everything["run"] == made[0].runs[-1]].set_index("cell")["peak_bytes"]
    first = seen[seen["place"] == 0].set_index("cell")["peak_bytes"]
    assert first.to_dict() == last[first.index].to_dict(), "the latest run of a commit counts"


def test_runs_without_a_commit_go_by_when_they_were_measured(tmp_path: Path) -> None:
    unknown = {"source": {"commit": None, "committed": None}}
    data = data_of(tmp_path, (OLD, 0, {**unknown, "recorded": "2026-01-04T00:00:00+00:00"}),
                   (NEW, 0, {}), (MID, 0, {}))  # fmt: skip
    assert names(data) == ["bbbbbbb", "2026-01-04 00:00", "ccccccc"]


@pytest.mark.slow
def test_lines_are_the_rows_and_steps_name_their_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_of(tmp_path, (NEW, 640, {}), (OLD, 0, {}), (MID, 64, {}))
    pictures, axes = panels(data, monkeypatch)
    assert {p.keys["method"] for p in pictures} == {
        f"Hessian-vector product by {method}" for method in ("double_backward", "functional_vhp", "jvp_of_grad")
    }
    assert len(axes) == len(pictures), "nothing but bytes changed"
    bytes_of = data.everything.pivot_table(index="cell", columns="run", values="peak_bytes")[
        ["20260201T000000Z-aaaaaaaa", "20260202T000000Z-aaaaaaaa", "20260200T000000Z-aaaaaaaa"]
    ]
    for picture, drawn in zip(pictures, axes, strict=True):
        method = picture.keys["method"].rpartition(" ")[2]
        mine = bytes_of[bytes_of.index.str.contains(f"/{method}/") & (bytes_of.iloc[:, 0] != bytes_of.iloc[:, 1])]
        largest = mine.loc[(mine.iloc[:, 2] / mine.iloc[:, 1]).idxmax()]  # the smallest: of it 576 bytes are the most
        (line,) = drawn.lines
        assert np.column_stack(line.get_data()) == pytest.approx(np.column_stack([[0, 1, 2], largest]))
        assert sorted(text.get_text()[:7] for text in drawn.texts) == ["bbbbbbb", "ccccccc"]
        assert [note.name for note in picture.notes] == ["bbbbbbb", "ccccccc"]
        assert "2026-01-05" in picture.notes[1].text
        assert picture.caption == f"{len(mine) - 1} more cells of this method changed."


def test_what_never_changed_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert panels(data_of(tmp_path, (OLD, 0, {}), (NEW, 0, {})), monkeypatch) == ([], [])


@pytest.mark.parametrize(
    ("was", "now", "said"), [(100.0, 112.0, "+12%"), (100.0, 340.0, "3.4×"), (100.0, 50.0, "-50%"), (0.0, 4.0, "0 → 4")]
)
def test_a_step_in_words(was: float, now: float, said: str) -> None:
    assert commits.Step(1, was, now).said == said
