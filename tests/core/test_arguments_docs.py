"""docs/arguments.md: its examples run, in order, and every item has one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import hograd_core as h
from hograd_core.curvature import hessian_blocks, model_blocks

TEXT = (Path(__file__).parents[2] / "docs" / "arguments.md").read_text(encoding="utf-8")
SECTIONS = TEXT.split("\n## ")
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_every_item_has_an_example() -> None:
    titles = [section.splitlines()[0] for section in SECTIONS[1:] if not EXAMPLE.search(section)]
    assert titles == ["What others accept"]


def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for section in SECTIONS:
        for example in EXAMPLE.findall(section):
            line = TEXT[: TEXT.index(example)].count("\n")
            exec(compile("\n" * line + example, "docs/arguments.md", "exec"), names)
    assert "needs 156 KiB, the limit is 100 KiB" in capsys.readouterr().out


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def f(p: Any, data: Tensor) -> Tensor:
    return ((data @ p["w"] + p["b"]) ** 4).mean()


X, DATA = {"w": draw(3), "b": draw()}, draw(5, 3)
NET = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
SAMPLES, LABELS = draw(6, 3), torch.arange(6) % 2


def mixed() -> bool:
    """A structure whose leaves differ in dtype: results are each in its own."""
    found = h.hessian(lambda p: p["a"].sum() * p["b"].sum().float(), {"a": draw(2), "b": draw(3).double()})
    return found["b"]["a"].dtype is torch.float64 and found["a"]["b"].shape == (2, 3)


def from_loader() -> bool:
    loader = DataLoader(TensorDataset(SAMPLES, LABELS), batch_size=4)
    g, x = h.from_module(NET, nn.CrossEntropyLoss(), loader)
    whole, _ = h.from_module(NET, nn.CrossEntropyLoss(), (SAMPLES, LABELS))
    return torch.allclose(h.gradient(g, x), h.gradient(whole, x), atol=1e-6)


def of_blocks() -> bool:
    own = hessian_blocks(f, X, args=(DATA,), pairs="all")["w", "b"].matrix()
    models = model_blocks(NET, nn.CrossEntropyLoss(), SAMPLES, LABELS, by="layer")["0", "0"]
    return own.shape == (3, 1) and models.shape == (16, 16)


def looped() -> bool:
    """vmap cannot look at values; a loop can."""
    per_sample = h.hessian(lambda x: (x**4).sum() if float(x.sum()) < 1e9 else x.sum(), DATA, in_dims=0)
    return torch.allclose(per_sample.diagonal(dim1=1, dim2=2), 12 * DATA**2, rtol=1e-4)


def differentiated() -> bool:
    weights = torch.ones(3, requires_grad=True)
    kept = h.directional_derivative(lambda x, w: (w * x**3).sum(), DATA[0], DATA[1], args=(weights,), create_graph=True)
    within = h.gradient(lambda x: h.hessian_trace(lambda z: (z**4).sum(), x), DATA[0])
    (slope,) = torch.autograd.grad(kept, weights)
    return torch.allclose(slope, 6 * DATA[0] * DATA[1] ** 2) and torch.allclose(within, 24 * DATA[0])


def limited() -> bool:
    out = torch.empty(3, 3)
    g = lambda x: (x**4).sum()  # noqa: E731
    made = h.hessian(g, DATA[0], memory="1MiB"), h.hessian(g, DATA[0], method="vmap_hvp", chunk_size=1)
    return h.hessian(g, DATA[0], out=out) is out and all(torch.allclose(one, out) for one in made)


OURS: dict[str, Callable[[], bool]] = {
    "structures of parameters": mixed,
    "further arguments of f": lambda: h.hvp(f, X, X, args=(DATA,))["w"].shape == (3,),
    "module and data loader": from_loader,
    "blocks of a curvature matrix": of_blocks,
    "per sample": looped,
    "several directions": lambda: (
        h.hvp(f, X, {"w": draw(4, 3), "b": draw(4)}, args=(DATA,), in_dims=(None, 0, None))["w"].shape == (4, 3)
    ),
    "results to differentiate": differentiated,
    "limit of memory": limited,
}


@pytest.mark.parametrize("row", OURS)
def test_what_the_table_says_of_hograd_holds(row: str) -> None:
    assert OURS[row]()


def test_the_table_has_these_rows_and_no_other() -> None:
    lines = TEXT.split("## What others accept", 1)[1].splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")][1:] == list(OURS)
