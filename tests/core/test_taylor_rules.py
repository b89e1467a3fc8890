"""Every Taylor rule against nested reverse-mode derivatives in float64."""

from __future__ import annotations

import pytest
import torch
from taylor_cases import (
    BINARY,
    COMPOUND,
    CONVOLUTIONS,
    ELEMENTWISE,
    IMAGE,
    PRODUCTS,
    STRUCTURE,
    X,
    agree,
)

from hograd_core.taylor import MissingRuleError, coverage, derivatives_along


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str) -> None:
    agree(*ELEMENTWISE[name], tolerance=1e-8 if name in {"lgamma", "digamma"} else 1e-10)


@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str) -> None:
    # float32 intermediates round at 1e-7.
    agree(*BINARY[name], tolerance=1e-5 if "dtype" in name else 1e-10)


@pytest.mark.parametrize("name", STRUCTURE)
def test_structure(name: str) -> None:
    agree(lambda x: STRUCTURE[name](x.sin()), X, order=3)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    agree(lambda x: PRODUCTS[name](x.sin()), X, order=4)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    agree(lambda x: CONVOLUTIONS[name](x.sin()), IMAGE, order=3)


@pytest.mark.parametrize("name", COMPOUND)
def test_compound(name: str) -> None:
    agree(*COMPOUND[name], order=4, tolerance=1e-9)


def test_missing_rule_is_named() -> None:
    with pytest.raises(MissingRuleError, match=r"matrix_exp.*reached at test_taylor_rules.py"):
        derivatives_along(lambda x: torch.matrix_exp(x @ x.mT), X, X, 2)
    with pytest.raises(MissingRuleError, match="out of place"):
        derivatives_along(lambda x: torch.zeros(3, 4, dtype=x.dtype).copy_(x).sum(), X, X, 2)


def test_coverage_is_listed() -> None:
    names = coverage()
    assert names == sorted(names)
    assert {"tanh", "addmm", "convolution", "native_layer_norm", "_log_softmax"} <= set(names)
