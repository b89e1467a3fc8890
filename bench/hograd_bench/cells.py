"""A cell: one way to compute one thing on one problem at one size. Its id is text that reproduces it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

DTYPES = ("float64", "float32", "bfloat16", "float16")
PREPARATIONS = ("eager", "graph", "compiled", "cudagraph")


@dataclass(frozen=True, order=True)
class Cell:
    """operator x method x problem x n x order x depth x batch x dtype x device x threads x preparation.

    Attributes:
        n, depth, batch: the problem's sizes; 1 where the problem does not have that size.
        order: derivative order (an operator without an order argument has its own fixed one).
        device: "cpu" or "cuda".
        threads: intra-op threads of torch.
        preparation: "eager" (called as is), or what ``hograd_core.prepare`` makes once before the calls.
    """

    operator: str
    method: str
    problem: str
    n: int
    order: int = 2
    depth: int = 1
    batch: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    preparation: str = "eager"

    @property
    def id(self) -> str:
        """Text such as ``gradient/func/mlp/n=64,order=1,depth=1,batch=1/float32/cpu/t1/eager``."""
        sizes = f"n={self.n},order={self.order},depth={self.depth},batch={self.batch}"
        return "/".join(
            (
                self.operator,
                self.method,
                self.problem,
                sizes,
                self.dtype,
                self.device,
                f"t{self.threads}",
                self.preparation,
            )
        )

    @classmethod
    def parse(cls, text: str) -> Cell:
        """The cell whose :attr:`id` is ``text``.

        Raises:
            ValueError: the text is not a cell's id; the message shows the form.
        """
        try:
            operator, method, problem, sizes, dtype, device, threads, preparation = text.strip().split("/")
            numbers = {key: int(value) for key, value in (part.split("=") for part in sizes.split(","))}
            if set(numbers) != {"n", "order", "depth", "batch"} or not threads.startswith("t"):
                raise ValueError
            cell = cls(
                operator, method, problem, **numbers,
                dtype=dtype, device=device, threads=int(threads[1:]), preparation=preparation,
            )  # fmt: skip
        except (ValueError, TypeError):
            raise ValueError(
                f"cell: got {text!r}, expected "
                "operator/method/problem/n=8,order=2,depth=1,batch=1/float32/cpu/t1/eager; "
                "`hograd run --list-cells` prints the ids of a preset"
            ) from None
        if min(numbers.values()) < 1 or cell.threads < 1:
            raise ValueError(f"cell: got {text!r}, expected sizes, order and threads >= 1")
        if dtype not in DTYPES:
            raise ValueError(f"cell: got dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
        if preparation not in PREPARATIONS:
            raise ValueError(f"cell: got preparation {preparation!r}, expected one of {', '.join(PREPARATIONS)}")
        return cell

    def as_dict(self) -> dict[str, Any]:
        """Field name -> value, in declaration order."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def dominates(self, other: Cell) -> bool:
        """Whether this cell is the same work as ``other`` at sizes at least as large in every parameter."""
        same = ("operator", "method", "problem", "dtype", "device", "threads", "preparation")
        sizes = ("n", "order", "depth", "batch")
        return all(getattr(self, k) == getattr(other, k) for k in same) and all(
            getattr(self, k) >= getattr(other, k) for k in sizes
        )
