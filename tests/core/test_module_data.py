"""Modules as people feed them: what DataLoaders yield, named inputs, parts of the parameters, and whole data sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from core_fakes import normal, squares
from hograd_bench.metrics._allocations import trace
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

import hograd_core as h
from hograd_core.curvature import HessianOperator

F64 = torch.float64


INPUTS, TARGETS = normal(7, 3), normal(7, 2, seed=1)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def mean_squares(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).mean()


class Named(nn.Module):
    """Takes its inputs by name, and answers with more than a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()

    def forward(self, images: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.layer(images) * (1 if scale is None else scale)}


def test_batches_as_data_loaders_yield_them() -> None:
    f, x = h.from_module(net(), mean_squares, (INPUTS, TARGETS))
    loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=7)
    (batch,) = loader
    assert isinstance(batch, list | tuple)
    g, _ = h.from_module(net(), mean_squares, batch)
    torch.testing.assert_close(g(x), f(x))

    def loss(output: dict[str, Tensor], target: Tensor) -> Tensor:
        return mean_squares(output["logits"], target)

    def loss_of_all(output: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        return mean_squares(output["logits"], batch["labels"])

    named, scale = Named(), torch.tensor(2.0, dtype=F64)
    by_position, y = h.from_module(named, loss, ((INPUTS, scale), TARGETS))
    by_name, _ = h.from_module(named, loss, ({"scale": scale, "images": INPUTS}, TARGETS))
    whole = {"images": INPUTS, "labels": TARGETS, "scale": scale}
    by_mapping, _ = h.from_module(named, loss_of_all, whole)
    assert by_position(y).item() == by_name(y).item() == by_mapping(y).item()
    torch.testing.assert_close(h.hessian(by_mapping, y), h.hessian(by_position, y))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_data_set_is_the_mean_over_all_its_samples(reduction: str) -> None:
    """Batches of unequal size; every linear operator, and solvers, as of the whole batch."""
    loss = nn.MSELoss(reduction=reduction) if reduction == "sum" else mean_squares
    whole, x = h.from_module(net(), loss, (INPUTS, TARGETS))
    loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=3)
    f, y = h.from_module(net(), loss, loader)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(f(x), whole(x))
    v = torch.ones_like(x)
    torch.testing.assert_close(h.gradient(f, x), h.gradient(whole, x))
    torch.testing.assert_close(h.hvp(f, x, v), h.hvp(whole, x, v))
    torch.testing.assert_close(h.directional_derivative(f, x, v, 3), h.directional_derivative(whole, x, v, 3))
    torch.testing.assert_close(h.hessian_diagonal(f, x), h.hessian_diagonal(whole, x))
    torch.testing.assert_close(h.hessian_trace(f, x), h.hessian_trace(whole, x))
    out = torch.empty(x.numel(), x.numel(), dtype=F64)
    assert h.hessian(f, x, out=out, verify=True) is out
    torch.testing.assert_close(out, h.hessian(whole, x))
    for method in ("linearised", "double_backward"):
        with HessianOperator(f, x, method=method) as over_batches, HessianOperator(whole, x) as at_once:
            torch.testing.assert_close(over_batches.matvec(v), at_once.matvec(v))
    torch.testing.assert_close(h.newton_cg_step(f, x, 10.0), h.newton_cg_step(whole, x, 10.0))
    structured, point = h.from_module(net(), loss, batches=list(loader), flat=False)
    directions = {name: torch.ones_like(p) for name, p in point.items()}
    found = h.hvp(structured, point, directions)
    torch.testing.assert_close(torch.cat([p.reshape(-1) for p in found.values()]), h.hvp(whole, x, v))


@pytest.mark.slow
def test_a_data_set_takes_the_memory_of_one_batch() -> None:
    module = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 2)).double()
    inputs, targets = normal(512, 3), normal(512, 2, seed=1)
    peaks = {}
    for size in (32, 512):
        f, x = h.from_module(module, mean_squares, DataLoader(TensorDataset(inputs, targets), batch_size=size))
        v = torch.ones_like(x)
        h.hvp(f, x, v)
        peaks[size] = trace(lambda f=f, x=x, v=v: h.hvp(f, x, v)).peak_bytes
    assert peaks[32] < peaks[512] / 4


def test_some_of_the_parameters() -> None:
    module = net()
    whole, x = h.from_module(module, mean_squares, (INPUTS, TARGETS))
    hessian = h.hessian(whole, x)
    f, y = h.from_module(module, mean_squares, (INPUTS, TARGETS), parameters="2.*")
    torch.testing.assert_close(y, x[16:])
    torch.testing.assert_close(h.hessian(f, y), hessian[16:, 16:])
    g, z = h.from_module(module, mean_squares, (INPUTS, TARGETS), parameters=["2.bias", "0.bias"], flat=False)
    assert list(z) == ["0.bias", "2.bias"]
    torch.testing.assert_close(h.hessian(g, z)["0.bias"]["2.bias"], hessian[12:16, 24:])
    # What is not chosen is a constant: nothing is recorded for it.
    assert not g({name: p.detach() for name, p in z.items()}).requires_grad
    mixed = net()
    mixed[2].float()
    mixed.forward = lambda a: mixed[2](mixed[1](mixed[0](a)).float())  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"2 kinds.*ask for flat=False"):
        h.from_module(mixed, squares, (INPUTS, TARGETS))


def test_a_tied_parameter_is_found_by_any_of_its_names() -> None:
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False)).double()
    module[2].weight = module[0].weight
    _, x = h.from_module(module, mean_squares, (normal(4, 2), normal(4, 2)), parameters="2.weight", flat=False)
    assert list(x) == ["0.weight"]


def test_operators_of_models_take_parts_names_and_keywords() -> None:
    module, loss, labels = net(), nn.CrossEntropyLoss(), torch.arange(7) % 2
    for name in ("gauss_newton_matrix", "fisher_matrix", "empirical_fisher_matrix"):
        operator = h.operators()[name]
        whole = operator(module, loss, INPUTS, labels)
        for method, record in operator.methods.items():
            if record.exact:
                part = operator(module, loss, {"input": INPUTS}, labels, method=method, parameters="0.*")
                torch.testing.assert_close(part, whole[:16, :16])
        block = operator(module, loss, INPUTS, labels, flat=False)["0.bias"]["2.weight"]
        torch.testing.assert_close(block, whole[12:16, 16:24].reshape(4, 2, 4))
    v = {name: torch.ones_like(p) for name, p in module.named_parameters()}
    product = h.fisher_vector_product(module, loss, INPUTS, labels, v)
    assert {name: p.shape for name, p in product.items()} == {name: p.shape for name, p in v.items()}
    step = h.natural_gradient_step(module, loss, INPUTS, labels, flat=False)
    flat = h.natural_gradient_step(module, loss, INPUTS, labels)
    torch.testing.assert_close(torch.cat([p.reshape(-1) for p in step.values()]), flat)
    with pytest.raises(ValueError, match=r"v\['0.bias'\]: got shape \(3,\), expected \(4,\)"):
        h.fisher_vector_product(module, loss, INPUTS, labels, {**v, "0.bias": torch.ones(3, dtype=F64)})
    with pytest.raises(TypeError, match="parameters: hessian_trace takes no module"):
        h.hessian_trace(lambda x: x.sum(), INPUTS, parameters="0.*")


def frozen() -> nn.Module:
    module = net()
    module[0].requires_grad_(False)
    return module


def iterator() -> Iterator[Any]:
    yield INPUTS, TARGETS


def loader(**how: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=3, **how)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no data": ({}, TypeError, "expected one of batch, as a DataLoader yields it, and batches"),
    "a tensor": ({"batch": INPUTS}, TypeError, r"batch: got Tensor, expected a pair \(inputs, targets\)"),
    "three": ({"batch": (INPUTS, INPUTS, INPUTS)}, TypeError, "batch: got 3 parts"),
    "an iterator": ({"batches": iterator()}, TypeError, "batches: got an iterator"),
    "no such name": ({"batch": (INPUTS, TARGETS), "parameters": "3.*"}, ValueError, r"none of 0.weight, 0.bias, 2"),
    "frozen": (
        {"module": frozen(), "batch": (INPUTS, TARGETS), "parameters": "0.*"},
        ValueError,
        "frozen ones .*0.wei",
    ),
    "dropout": (
        {"module": nn.Sequential(net(), nn.Dropout()), "batch": (INPUTS, TARGETS)},
        ValueError,
        r"dropout.*eval",
    ),
    "batch norm": (
        {"module": nn.Sequential(net(), nn.BatchNorm1d(2)).double(), "batches": [(INPUTS, TARGETS)]},
        ValueError,
        "couples the samples",
    ),
    "reduction": ({"batches": [(INPUTS, TARGETS)], "reduction": "none"}, ValueError, "reduction: got 'none'"),
    "no names": ({"batch": (INPUTS, TARGETS), "parameters": []}, ValueError, r"parameters: got \[\], expected at l"),
    "a number": ({"batch": (INPUTS, TARGETS), "parameters": 3}, TypeError, "parameters: got 3, expected a name or"),
    "samples left out": ({"batches": loader(shuffle=True, drop_last=True)}, ValueError, "draws other samples in each"),
    "weighted samples": (
        {"batch": loader(sampler=WeightedRandomSampler([1.0] * 7, 7))}, ValueError, "draws other samples in each",
    ),
    "samples put back": (
        {"batch": loader(sampler=RandomSampler(range(7), replacement=True))}, ValueError, "without replacement",
    ),
    "fewer samples": ({"batch": loader(sampler=RandomSampler(range(7), num_samples=6))}, ValueError, "loss is random"),
}  # fmt: skip


@pytest.mark.parametrize(
    "how",
    [
        {"shuffle": True},
        {"drop_last": True},
        {"sampler": SubsetRandomSampler([4, 2, 1, 5, 6, 0])},
        {"shuffle": True, "drop_last": True, "batch_size": 7},
    ],
    ids=", ".join,  # of its keys
)
def test_what_only_changes_the_order_is_no_chance(how: dict[str, Any]) -> None:
    loaders = DataLoader(TensorDataset(INPUTS, TARGETS), **{"batch_size": 3, **how})
    f, x = h.from_module(net(), mean_squares, loaders)
    torch.testing.assert_close(h.gradient(f, x), h.gradient(f, x))


@pytest.mark.parametrize("case", WRONG)
def test_errors_name_what_is_wrong(case: str) -> None:
    given, error, message = WRONG[case]
    given = {"module": net(), **given}
    with pytest.raises(error, match=message):
        h.from_module(given.pop("module"), mean_squares, given.pop("batch", None), **given)


def test_no_batches_and_batches_without_samples() -> None:
    f, x = h.from_module(net(), mean_squares, batches=[])
    with pytest.raises(ValueError, match="batches: got none"):
        h.gradient(f, x)
    f, x = h.from_module(nn.Linear(1, 1).double(), lambda output, _: output.sum(), batches=[((), None)])
    with pytest.raises(ValueError, match="whose first axis counts samples"):
        h.gradient(f, x)
