"""A fake side: a tree with a torch, a core and a suite of a few lines, and a clock of its own.

Workers start in milliseconds, and a call takes exactly the virtual time that the tree's ``behaviour.json`` says, so
the gate's whole machinery (real processes, real pipes) is tested without any dependence on the machine's speed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hograd_bench.gate import run
from hograd_bench.gate.statistics.policy import Policy
from hograd_bench.gate.twins.loop import Twin
from hograd_bench.gate.twins.processes import Side

MS = 1_000_000
FEW = Policy(max_pairs=16)
NAMES = ("one", "two", "three")

TORCH = """
__version__ = "0.fake"
class Tensor:
    def __init__(self, values): self.values = [float(v) for v in values]; self.shape = (len(self.values),)
    def detach(self): return self
    def is_complex(self): return False
    def to(self, *a): return self
    def contiguous(self): return self
    def numpy(self): import array; return array.array("d", self.values)
    def is_floating_point(self): return True
    def mul_(self, factor): self.values = [factor * v for v in self.values]
def as_tensor(x): return x if isinstance(x, Tensor) else Tensor([x])
def set_num_threads(n): pass
def manual_seed(n): pass
class no_grad:
    def __enter__(self): pass
    def __exit__(self, *e): pass
class nn:
    class Module: pass
float64 = float32 = "float"
class finfo:
    def __init__(self, dtype): self.eps = 1e-7
class _Cpu:
    def get_cpu_capability(self): return "FAKE"
class _Backends: cpu = _Cpu()
backends = _Backends()
class _Cuda:
    def is_available(self): return False
cuda = _Cuda()
"""

METRICS = """
import json, os, random, signal, time
from pathlib import Path
import torch

BEHAVIOUR = json.loads((Path(__file__).parent.parent / "behaviour.json").read_text())
clock = [0]
time.perf_counter_ns = time.thread_time_ns = lambda: clock.__setitem__(0, clock[0] + 50) or clock[0]
noise = random.Random(int.from_bytes(os.urandom(8), "little"))

class UnsupportedError(RuntimeError):
    reason = "no batching rule: fake"

class Method:
    exact, tolerance = True, None

class Subject:
    dtype, method = "float32", Method()
    def __init__(self, cell):
        if cell.id not in BEHAVIOUR: raise ValueError(f"method: got {cell.id!r}, expected another")
        self.cell, self.does, self.calls = cell, BEHAVIOUR[cell.id], 0
        if not self.does.get("old"): self.arguments = (torch.Tensor([1.0]),)
    def call(self):
        self.calls += 1
        does = self.does
        if self.calls > does.get("from_call", 0): self.misbehave(does)
        print("noise on stdout")
        if "log" in does:
            with open(does["log"][0], "a") as file: file.write(does["log"][1])
        clock[0] += int(does["ns"] * (1 + does.get("noise", 0.0) * noise.random()))
        scale = 1.0 if does.get("remembers") or does.get("old") else self.arguments[0].values[0]
        if self.calls >= does.get("wrong_from", 10**9): scale = 0.0
        return torch.Tensor([scale * r for r in does.get("result", [1.0, 2.0])])
    @staticmethod
    def misbehave(does):
        if does.get("status") == "unsupported": raise UnsupportedError("x")
        if does.get("status") == "failed": raise RuntimeError("kaputt")
        if does.get("status") == "crash": os.kill(os.getpid(), signal.SIGSEGV)
        if does.get("status") == "hang": time.sleep(600)

class Metric:
    def __init__(self, name, unit, deterministic): self.name, self.unit, self.deterministic = name, unit, deterministic
class Missing:
    reason = "fake"
class Readings:
    def __init__(self, values, details): self.values, self.details = values, details
class memory:
    METRICS = [Metric("peak_bytes", "B", True), Metric("share", "1", True), Metric("rss", "B", False), Metric("gone", "B", True)]
    @staticmethod
    def measure(subject):
        does = subject.does
        return Readings(
            {"peak_bytes": does.get("peak", 100), "share": 0.5, "rss": noise.randrange(99), "gone": Missing()},
            {"peak_attribution": [{"phase": "backward 1", "op": "aten::mm", "bytes": does.get("peak", 100)}],
             "aten_by_op": {"aten::mm": 2}})
def families(): return {"memory": memory}
"""  # noqa: E501

CELLS = """
class Cell:
    threads, device, order = 1, "cpu", 2
    def __init__(self, id): self.id = id
    @classmethod
    def parse(cls, text): return cls(text)
"""


def cell_id(name: str) -> str:
    """An id of the usual form."""
    return f"op/{name}/problem/n=1,order=2,depth=1,batch=1/float32/cpu/t1/eager"


def make(folder: Path, behaviour: dict[str, dict[str, Any]]) -> Path:
    """Write a fake tree; ``behaviour`` is by method name."""
    for name, text in {
        "torch/__init__.py": TORCH,
        "torch/utils/__init__.py": "",
        "torch/utils/_pytree.py": "def tree_leaves(x): return list(x) if isinstance(x, tuple) else [x]\n",
        "hograd_core/__init__.py": "",
        "bench/hograd_bench/__init__.py": "",
        "bench/hograd_bench/cells.py": CELLS,
        "bench/hograd_bench/metrics.py": METRICS,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    does = {cell_id(name): how for name, how in behaviour.items()}
    (folder / "bench" / "behaviour.json").write_text(json.dumps(does), encoding="utf-8")
    return folder


def side(folder: Path, name: str, behaviour: dict[str, dict[str, Any]], plugins: tuple[str, ...] = ()) -> Side:
    """A side on a fake tree."""
    tree = make(folder / name, behaviour)
    return Side(name, sys.executable, (str(tree), str(tree / "bench")), plugins)


def twin(name: str) -> Twin:
    """A cell against itself."""
    return Twin(name, cell_id(name), cell_id(name))


def behaviour(**changed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Three cells that take a millisecond, with what some do otherwise."""
    return {name: {"ns": MS, "noise": 0.02, **changed.get(name, {})} for name in NAMES}


def compare(folder: Path, a: dict[str, Any], b: dict[str, Any], rules: Policy = FEW, **options: Any) -> Any:
    """A gate run on two fake sides: its outcome, and the timing gate's record."""
    left, right = side(folder, "a", a), side(folder, "b", b)
    names = sorted({*a, *b})
    return run.sides_against(left, right, [twin(n) for n in names], rules, seed=1, **options)


def kinds(outcome: Any) -> dict[str, str]:
    """Kind of finding by cell."""
    return {f.cell: f.kind for f in outcome.findings}
