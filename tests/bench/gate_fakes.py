"""A fake side: a tree with a torch, a core and a suite of a few lines, and a clock of its own.

Workers start in milliseconds, and a call takes exactly the virtual time that the tree's ``behaviour.json`` says, so
the twins' whole machinery (real processes, real pipes) is tested without any dependence on the machine's speed. Rows
come from a fake engine that reads the same file.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hograd_bench import schema
from hograd_bench.cells import Cell
from hograd_bench.engine import NOT_THERE, Event, Task
from hograd_bench.gate import run, suite
from hograd_bench.gate.revisions.sides import Side, Twin
from hograd_bench.gate.statistics.policy import Policy
from hograd_bench.metrics import Missing
from hograd_bench.metrics.steadiness import KEEP
from hograd_bench.schema import Row

MS = 1_000_000
FEW = Policy(max_pairs=16)
NAMES = ("one", "two", "three")

TORCH = """
__version__ = "0.fake"
class Tensor:
    def __init__(self, values): self.values = [float(v) for v in values]; self.shape = (len(self.values),)
def set_num_threads(n): pass
def manual_seed(n): pass
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

BEHAVIOUR = json.loads((Path(__file__).parents[2] / "behaviour.json").read_text())
clock = [0]
time.perf_counter_ns = time.thread_time_ns = lambda: clock.__setitem__(0, clock[0] + 50) or clock[0]
noise = random.Random(int.from_bytes(os.urandom(8), "little"))

class UnsupportedError(RuntimeError):
    reason = "no batching rule: fake"

class Subject:
    def __init__(self, cell):
        if cell.id not in BEHAVIOUR: raise ValueError(f"method: got {cell.id!r}, expected another")
        self.cell, self.does, self.calls = cell, BEHAVIOUR[cell.id], 0
    def call(self):
        self.calls += 1
        does = self.does
        if self.calls > does.get("from_call", 0): self.misbehave(does)
        print("noise on stdout")
        if "log" in does:
            with open(does["log"][0], "a") as file: file.write(does["log"][1])
        clock[0] += int(does["ns"] * (1 + does.get("noise", 0.0) * noise.random()))
        scale = 0.0 if self.calls >= does.get("wrong_from", 10**9) else 1.0
        return torch.Tensor([scale * r for r in does.get("result", [1.0, 2.0])])
    @staticmethod
    def misbehave(does):
        if does.get("status") == "unsupported": raise UnsupportedError("x")
        if does.get("status") == "failed": raise RuntimeError("kaputt")
        if does.get("status") == "crash": os.kill(os.getpid(), signal.SIGSEGV)
        if does.get("status") == "hang": time.sleep(600)

RECORD = {"unit": "B", "deterministic": True, "instrument": "fake", "description": "fake"}
def as_json(): return {"peak_bytes": {"name": "peak_bytes", **RECORD}}
"""

STEADINESS = """
import array
def allowed(subject): return 1e-3
def save(result, path):
    with open(path, "wb") as file: file.write(array.array("d", result.values).tobytes())
    return [list(result.shape)]
"""

CHILD = """
import importlib, json, runpy, sys
def load(given):
    for name in given["plugins"]: runpy.run_path(next(f"{r}/{name}" for r in sys.path if r.endswith(("/a", "/b"))))
if __name__ == "__main__":
    given = json.load(open(sys.argv[1]))
    load(given)
    module, name = given["call"].split(":")
    print(json.dumps({"result": getattr(importlib.import_module(module), name)(*given["arguments"])}))
"""

CORE = """
import json
from pathlib import Path
behaviour = json.loads((Path(__file__).parents[1] / "bench/behaviour.json").read_text())
class op:
    name = "op"
    methods = [cell.split("/")[1] for cell in behaviour]
def operators(): return {"op": op}
"""

CELLS = """
class Cell:
    threads, device, order = 1, "cpu", 2
    def __init__(self, id): self.id = id
    @classmethod
    def parse(cls, text): return cls(text)
"""


def git(repo: Path, *arguments: str) -> str:
    named = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", "-C", str(repo), *named, *arguments], check=True, capture_output=True, encoding="utf-8"
    )
    return done.stdout.strip()


def cell_id(name: str) -> str:
    """An id of the usual form."""
    return f"op/{name}/problem/n=1,order=2,depth=1,batch=1/float32/cpu/t1/eager"


def make(folder: Path, behaviour: dict[str, dict[str, Any]]) -> Path:
    """Write a fake tree; ``behaviour`` is by method name."""
    for name, text in {
        "torch/__init__.py": TORCH,
        "hograd_core/__init__.py": CORE,
        "bench/hograd_bench/__init__.py": "",
        "bench/hograd_bench/cells.py": CELLS,
        "bench/hograd_bench/metrics/__init__.py": METRICS,
        "bench/hograd_bench/metrics/steadiness.py": STEADINESS,
        "bench/hograd_bench/engine/__init__.py": "",
        "bench/hograd_bench/engine/child.py": CHILD,
        "bench/hograd_bench/engine/__main__.py": CHILD,
        "bench/hograd_bench/gate/suite.py": Path(suite.__file__).read_text(encoding="utf-8"),
        "bench/hograd_bench/gate/preset.py": "def cells(): return []\n",
        "bench/hograd_bench/measure.py": 'DETERMINISTIC = ("memory",)\n',
        "bench/hograd_bench/problems.py": 'def problems(): return {"problem": None}\n',
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


class Engine:
    """Rows as the trees' behaviour says; no process is started."""

    def run(self, tasks: Iterable[Task], wanted: Any = None) -> Iterator[Event]:
        for task in tasks:
            cell = task.cell
            does = json.loads((Path(task.host.roots[1]) / "behaviour.json").read_text(encoding="utf-8")).get(cell.id)
            if does is None:
                yield Event(task, schema.row(cell, "skipped", f"{NOT_THERE}no such method"))
                continue
            status = does.get("status", "ok")
            yield Event(task)
            yield Event(task, self.row(cell, status, does, Path(str(task.host.variables[KEEP]))))

    @staticmethod
    def row(cell: Cell, status: str, does: dict[str, Any], keep: Path) -> Row:
        if status != "ok":
            return schema.row(cell, status, "no batching rule: fake")
        peak = does.get("peak", 100)
        held = [{"phase": "backward 1", "op": "aten::mm", "bytes": peak}]
        details: dict[str, Any] = {"peak_attribution": held, "aten_by_op": {"aten.mm": 2}}
        if not does.get("old"):
            values = np.array(does.get("result", [1.0, 2.0]))
            values.tofile(keep / cell.method)
            details["results"] = {"file": cell.method, "shapes": [list(values.shape)], "allowed": 1e-3}
        figures = {"peak_bytes": peak, "share": 0.5, "rss": random.randrange(99), "gone": Missing("fake")}
        return schema.row(cell, "ok", metrics=figures, details=details)


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
    return run.sides_against(left, right, [twin(n) for n in names], rules, seed=1, engine=Engine(), **options)


def kinds(outcome: Any) -> dict[str, str]:
    """Kind of finding by cell."""
    return {f.cell: f.kind for f in outcome.findings}
