"""Methods and problems of another package, by entry point: the example of docs/your_project.md, installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import hograd_bench
import pytest
import torch

import hograd_core

DOCS = (Path(__file__).parents[2] / "docs" / "your_project.md").read_text(encoding="utf-8")
LOOK = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from hograd_bench import measure, problems
import hograd_core, torch
from hograd_bench.cells import Cell
cells = [Cell("derivative_tensor", "my_hessian", name, 3) for name in ("my_energy", "quadratic")]
print(json.dumps({
    "said": [str(w.message) for w in caught],
    "rows": [[row["status"], row["reason"]] for row in (measure.measure(cell, ["counts"]) for cell in cells)],
    "called": hograd_core.hessian(lambda x: (x**3).sum(), torch.ones(2), method="my_hessian").tolist(),
}))
"""


@pytest.mark.slow
def test_the_example_of_the_page_is_measured_where_it_is_installed(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n# my_library/hograd_plugin.py\n(.*?)```", DOCS, re.DOTALL)
    (entry,) = re.findall(r"```toml\n\[project.entry-points.hograd\]\nmy_library = \"(.*?)\"\n```", DOCS)
    (tmp_path / "my_library").mkdir()
    (tmp_path / "my_library" / "hograd_plugin.py").write_text(example, encoding="utf-8")
    about = tmp_path / "my_library-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my_library\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(
        f"[hograd]\nmy_library = {entry}\nbroken = my_library.nothing\n", encoding="utf-8"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    ended = subprocess.run(
        [sys.executable, "-c", LOOK],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["rows"] == [["ok", None], ["ok", None]]
    assert found["called"] == [[6.0, 0.0], [0.0, 6.0]]
    assert ["entry point 'broken' of my_library" in said for said in found["said"]] == [True]
    assert "my_library.nothing cannot be imported, so what it registers is missing" in found["said"][0]


def test_a_method_keeps_its_options_and_the_order_that_its_alias_fixes() -> None:
    @hograd_bench.method("hvp", "scaled", source="a test")
    def scaled(f: object, x: torch.Tensor, v: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        return scale * v

    x, v = torch.ones(2), torch.tensor([1.0, 2.0])
    found = hograd_core.derivative_vector_product.methods["scaled"]
    assert (found.min_order, found.max_order, found.options, found.source) == (2, 2, ("scale",), "a test")
    assert hograd_core.hvp(torch.sum, x, v, method="scaled", scale=3.0).tolist() == [3.0, 6.0]
    assert scaled(None, x, v).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="order: got 3"):
        hograd_core.derivative_vector_product(torch.sum, x, v, 3, method="scaled")
    with pytest.raises(ValueError, match="declared twice"):
        hograd_bench.method("hvp", "scaled")(scaled)
    with pytest.raises(ValueError, match="operator: got 'hesian'"):
        hograd_bench.method("hesian")


def test_a_familys_method_is_given_the_order() -> None:
    @hograd_bench.method("derivative_tensor", max_order=3)
    def constant(f: object, x: torch.Tensor, *, order: int) -> torch.Tensor:
        return torch.full((len(x),) * order, float(order))

    assert hograd_core.derivative_tensor(torch.sum, torch.ones(1), 3, method="constant").tolist() == [[[3.0]]]
    assert "constant" not in dir(hograd_bench)
