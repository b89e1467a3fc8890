"""A cell's id is text that gives the cell back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hograd_bench.cells import DTYPES, Cell
from hypothesis import given
from hypothesis import strategies as st

CELL = Cell("derivative_vector_product", "jvp_of_grad", "mlp", 64, 3, 2, 5, "float64", "cpu", 2)
names = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1)
sizes = st.integers(1, 10**6)


@given(st.builds(Cell, names, names, names, sizes, sizes, sizes, sizes, st.sampled_from(DTYPES), names, sizes))
def test_id_round_trip(cell: Cell) -> None:
    assert Cell.parse(cell.id) == cell


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "operator/method/problem"),
        (CELL.id.replace("n=64", "n=x"), "operator/method/problem"),
        (CELL.id.replace("n=64", "m=64"), "operator/method/problem"),
        (CELL.id.replace("n=64", "n=0"), ">= 1"),
        (CELL.id.replace("float64", "int8"), "float32"),
        (CELL.id.replace("eager", "magic"), "eager"),
        (CELL.id.replace("/t2/", "/2/"), "operator/method/problem"),
    ],
)
def test_parse_names_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="cell: got") as caught:
        Cell.parse(text)
    assert said in str(caught.value)


def test_dominates() -> None:
    assert replace(CELL, n=65).dominates(CELL)
    assert CELL.dominates(CELL)
    assert not replace(CELL, n=65, order=2).dominates(CELL)
    assert not replace(CELL, method="double_backward").dominates(CELL)
    assert not replace(CELL, dtype="float32").dominates(CELL)
