"""The table of docs/arguments.md, what others accept: tried. Run in .nox/peers, where the packages are."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

F64 = torch.float64
DOCS = (Path(__file__).parents[2] / "docs" / "arguments.md").read_text(encoding="utf-8")
TABLE = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in DOCS.split("## What others accept", 1)[1].splitlines()
    if line.startswith("|") and not line.startswith("|---")
]
COLUMNS = TABLE[0][1:]
SAID = {(row[0], column): cell for row in TABLE[1:] for column, cell in zip(COLUMNS, row[1:], strict=True)}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


torch.manual_seed(0)
NET, LOSS = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(), nn.CrossEntropyLoss()
PARAMS, INPUTS, LABELS = list(NET.parameters()), draw(6, 3), torch.arange(6) % 2
N = sum(p.numel() for p in PARAMS)


def exact() -> Tensor:
    """The Hessian of the loss over the flat parameters, by torch.autograd."""
    sizes = [p.numel() for p in PARAMS]

    def f(flat: Tensor) -> Tensor:
        parts = [part.view_as(p) for part, p in zip(flat.split(sizes), PARAMS, strict=True)]
        named = dict(zip([n for n, _ in NET.named_parameters()], parts, strict=True))
        found: Tensor = LOSS(torch.func.functional_call(NET, named, (INPUTS,)), LABELS)
        return found

    flat = torch.cat([p.detach().reshape(-1) for p in PARAMS])
    hessian: Tensor = torch.autograd.functional.hessian(f, flat)  # type: ignore[no-untyped-call]
    return hessian


def curvlinops_operator(data: Any = None, **options: Any) -> Any:
    curvlinops = pytest.importorskip("curvlinops")
    model = options.pop("model", NET)
    return curvlinops.HessianLinearOperator(model, LOSS, PARAMS, data or [(INPUTS, LABELS)], **options)


def blocks_of(matrix: Tensor) -> Tensor:
    kept = torch.zeros_like(matrix)
    start = 0
    for p in PARAMS:
        part = slice(start, start + p.numel())
        kept[part, part] = matrix[part, part]
        start = part.stop
    return kept


def test_curvlinops() -> None:
    eye, true = torch.eye(N, dtype=F64), exact()
    torch.testing.assert_close(curvlinops_operator() @ eye, true)  # several directions are columns
    two = [(INPUTS[:2], LABELS[:2]), (INPUTS[2:], LABELS[2:])]
    torch.testing.assert_close(curvlinops_operator(two) @ eye, true)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = NET

        def forward(self, data: Any) -> Any:
            return self.net(data["x"])

    options = {"batch_size_fn": lambda data: len(data["x"]), "model": Named()}
    torch.testing.assert_close(curvlinops_operator([({"x": INPUTS}, LABELS)], **options) @ eye, true)
    blocked = curvlinops_operator(block_sizes=[1] * len(PARAMS)) @ eye
    torch.testing.assert_close(blocked, blocks_of(true))
    assert not (curvlinops_operator() @ eye[0]).requires_grad
    signature = inspect.signature(type(curvlinops_operator()).__init__)
    assert not {"memory", "chunk_size"} & set(signature.parameters)


def extended() -> tuple[Any, nn.Module, nn.Module]:
    backpack = pytest.importorskip("backpack")
    return backpack, backpack.extend(copy.deepcopy(NET)), backpack.extend(nn.CrossEntropyLoss())


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")  # of its own hooks
def test_backpack() -> None:
    backpack, net, loss = extended()
    from backpack import extensions

    asked = [extensions.BatchGrad(), extensions.BatchL2Grad(), extensions.BatchDiagGGNExact(), extensions.HMP()]
    with backpack.backpack(*asked, extensions.DiagHessian()):
        loss(net(INPUTS), LABELS).backward(retain_graph=True)
    last = list(net.parameters())[-1]
    assert last.grad_batch.shape == (6, 2)
    assert last.batch_l2.shape == (6,)
    assert last.diag_ggn_exact_batch.shape == (6, 2)
    block = last.hmp(torch.eye(2, dtype=F64))  # columns of the parameter's block
    torch.testing.assert_close(block, exact()[-2:, -2:])
    assert not last.diag_h.requires_grad
    assert not any("chunk" in name or "memory" in name for name in inspect.signature(backpack.backpack).parameters)


def test_torch_func() -> None:
    def f(p: dict[str, Tensor], data: Tensor) -> Tensor:
        return ((data @ p["w"] + p["b"]) ** 4).mean()

    p, data = {"w": draw(3), "b": draw()}, draw(5, 3)
    nested = torch.func.hessian(f)(p, data)
    assert nested["w"]["b"].shape == (3,)
    assert torch.func.hessian(f, argnums=1)(p, data).shape == (5, 3, 5, 3)
    assert torch.func.vmap(torch.func.hessian(f), in_dims=(None, 0))(p, data)["w"]["w"].shape == (5, 3, 3)
    weights = data.clone().requires_grad_()
    assert torch.func.hessian(f)(p, weights)["w"]["w"].requires_grad
    assert "chunk_size" in inspect.signature(torch.func.jacrev).parameters


def test_jax() -> None:
    jax = pytest.importorskip("jax")

    def f(p: Any, data: Any) -> Any:
        return ((data @ p["w"] + p["b"]) ** 4).mean()

    p, data = {"w": jax.numpy.ones(3), "b": jax.numpy.zeros(())}, jax.numpy.ones((5, 3))
    assert jax.hessian(f)(p, data)["w"]["b"].shape == (3,)
    assert jax.hessian(f, argnums=1)(p, data).shape == (5, 3, 5, 3)
    assert jax.vmap(jax.hessian(f), in_axes=(None, 0))(p, data)["w"]["w"].shape == (5, 3, 3)
    assert jax.grad(lambda d: jax.hessian(f)(p, d)["w"]["w"].sum())(data).shape == (5, 3)
    assert not {"chunk_size", "memory"} & set(inspect.signature(jax.hessian).parameters)


WORDS: dict[tuple[str, str], str] = {
    ("module and data loader", "curvlinops"): "yes",
    ("blocks of a curvature matrix", "curvlinops"): "block_sizes",
    ("per sample", "BackPACK"): "diagonals",
    ("blocks of a curvature matrix", "BackPACK"): "HMP",
    ("several directions", "curvlinops"): "columns",
    ("limit of memory", "torch.func"): "chunk_size",
    ("per sample", "JAX"): "vmap",
    ("further arguments of f", "JAX"): "argnums",
}


def test_the_table_says_what_was_tried() -> None:
    assert COLUMNS == ["curvlinops", "BackPACK", "torch.func", "JAX", "DifferentiationInterface", "hograd"]
    for at, word in WORDS.items():
        assert word in SAID[at], at
    assert all(SAID[row[0], "hograd"] != "no" for row in TABLE[1:])
