"""One side of the gate, in a process of its own: JSON lines in, JSON lines out.

Run as a script (``python worker.py PARENT READ WRITE ROOT [ROOT...]``) by the gate of the current tree, against the
``hograd_core`` and ``hograd_bench`` of ROOT, which may be an older revision, another environment or another
project. So it needs nothing but the standard library until it imports that side's suite, and uses of that suite
only ``Cell.parse``, ``Subject(cell)`` with ``call()`` and ``arguments``, and ``metrics.families()``; what it looks for
beyond that may be missing. It dies with its parent: on end of input,
and on Linux by a signal of the kernel.

Requests: {"do": "hello", "plugins": [...], "preset"} | {"do": "prepare", "cell", "result"} | {"do": "turns", "cell",
"calls", "turns", "begins", "patience"} | {"do": "check", "cell", "result"} | {"do": "count", "cell", "result", "truth"}
| {"do": "quit"}.
Each gets one reply with "ok": true, or "ok": false with "status" and "reason". During "turns" the two workers of a
pair hand the turn to each other through the pipes READ and WRITE (-1: there is no other side).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import sys
import time

if sys.platform == "linux":
    import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROTOCOL = 1
WARM_CALLS = 3


class RefusalError(Exception):
    """The request cannot be met; ``status`` says why in one word."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def waited() -> int:
    """How often this thread gave up its core of its own accord; changes at every call where that is unknown."""
    if sys.platform != "linux":
        return time.perf_counter_ns()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def die_with_parent(parent: int) -> None:
    """Ask Linux for SIGKILL when the parent dies; elsewhere the end of input must do."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def load_plugin(name: str) -> None:
    """Import a module, or run a file, that registers operators, methods or problems."""
    if not name.endswith(".py"):
        importlib.import_module(name)
        return
    path = next((r / name for r in map(Path, [*sys.path, "."]) if (r / name).is_file()), None)
    if path is None:
        raise RefusalError("missing", f"plugin {name} does not exist on this side")
    spec = importlib.util.spec_from_file_location(f"hograd_gate_plugin_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


class Baton:
    """The turn, handed from one worker to the other by a byte."""

    GO, STOP = b".", b"!"

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write = read, write

    def take(self, patience: float) -> None:
        """Wait for the turn.

        Raises:
            RefusalError: the other side stopped, ended, or did not hand over within ``patience`` seconds.
        """
        ready = select.select([self.read], [], [], patience)[0]
        if not ready or os.read(self.read, 1) != self.GO:
            how = "stopped or ended" if ready else f"did not hand over within {patience:g} s"
            raise RefusalError("waited", f"the other side {how}")

    def hand_over(self, what: bytes = GO) -> None:
        """Give the turn away; a partner that is gone is the parent's business."""
        try:
            os.write(self.write, what)
        except OSError:
            return


class Worker:
    """State of the process: the side's suite and the prepared cells."""

    def __init__(self, roots: list[str], baton: Baton) -> None:
        self.roots = [os.path.realpath(root) for root in roots]
        self.baton = baton
        self.calls: dict[str, Callable[[], Any]] = {}
        self.subjects: dict[str, Any] = {}
        self.wait_until_done: Callable[[str], None] = lambda cell: None

    def hello(self, request: dict[str, Any]) -> dict[str, Any]:
        """Import the side's suite and say what this side is."""
        try:
            import torch

            core = importlib.import_module("hograd_core")
            importlib.import_module("hograd_bench.cells")
            importlib.import_module("hograd_bench.metrics")
        except ImportError as error:
            raise RefusalError("no suite", f"{type(error).__name__}: {error}") from error
        found = os.path.realpath(str(core.__file__))
        if request.get("own_suite", True) and not any(found.startswith(root + os.sep) for root in self.roots):
            raise RefusalError("no suite", f"hograd_core was found at {found}, outside of {', '.join(self.roots)}")
        for plugin in request.get("plugins", []):
            load_plugin(plugin)
        torch.set_num_threads(1)
        gc.collect()
        gc.freeze()  # imports are not garbage: collections between turns stay short
        return {
            "protocol": PROTOCOL,
            "python": sys.version.split()[0],
            "torch": str(torch.__version__),
            "isa": torch.backends.cpu.get_cpu_capability(),
            "machine": os.uname().machine if hasattr(os, "uname") else sys.platform,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "suite": os.path.dirname(found),
            "methods": methods_of(core),
            **(preset_of() if request.get("preset") else {}),
        }

    def _subject(self, cell_id: str) -> Any:
        if cell_id not in self.subjects:
            from hograd_bench.cells import Cell
            from hograd_bench.metrics import Subject

            try:
                self.subjects[cell_id] = Subject(Cell.parse(cell_id))
            except (ValueError, KeyError) as error:  # this side has no such method, problem or kind of cell
                raise RefusalError("missing", str(error).strip("'\"")) from error
        return self.subjects[cell_id]

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Build a cell, call it once, leave its result in a file, warm it up and say what a call takes."""
        import torch

        cell_id = request["cell"]
        subject = self._subject(cell_id)
        torch.set_num_threads(subject.cell.threads)
        if subject.cell.device == "cuda":
            torch.cuda.synchronize()
        shapes = self.save(attempt(lambda: seeded(subject)), request["result"])
        for _ in range(WARM_CALLS):
            attempt(subject.call)
        self.calls[cell_id] = subject.call
        taken = self.timed(cell_id, 3)
        gc.freeze()  # what the first calls imported and cached stays: collections between turns remain short
        return {"call_ns": min(taken), "shapes": shapes, **rounding_of(subject)}

    def check(self, request: dict[str, Any]) -> dict[str, Any]:
        """Call a prepared cell again and leave its result in a file: it must still be right after its turns."""
        return {"shapes": self.save(attempt(lambda: seeded(self.subjects[request["cell"]])), request["result"])}

    @staticmethod
    def save(result: Any, path: str) -> list[list[int]]:
        """Write every tensor of a result as little-endian float64, in tree order; returns their shapes."""
        import torch
        from torch.utils import _pytree

        shapes: list[list[int]] = []
        with open(path, "wb") as file:
            for leaf in _pytree.tree_leaves(result):
                if isinstance(leaf, int | float | complex | torch.Tensor):
                    tensor = torch.as_tensor(leaf).detach()
                    if tensor.is_complex():
                        tensor = torch.view_as_real(tensor.resolve_conj())
                    shapes.append(list(tensor.shape))
                    file.write(tensor.to("cpu", torch.float64).contiguous().numpy().tobytes())
        return shapes

    def timed(self, cell_id: str, calls: int) -> list[int]:
        """Nanoseconds of each of ``calls`` calls, the collector off, garbage of the turn cleared afterwards.

        A call that never gave up its core of itself was runnable throughout: what its wall time exceeds its CPU
        time by, others took, and the CPU time counts. A call that waited (a lock, a sleep, a file, another thread)
        and one on a GPU or on several threads counts by the wall clock.
        """
        import torch

        subject, call = self.subjects[cell_id], self.calls[cell_id]
        cuda = subject.cell.device == "cuda"
        torch.set_num_threads(subject.cell.threads)
        wall, own, taken = time.perf_counter_ns, time.thread_time_ns, []
        by_wall = cuda or subject.cell.threads > 1
        gc.disable()
        try:
            for _ in range(calls):
                waits = waited()
                start, used = wall(), own()
                call()
                if cuda:
                    torch.cuda.synchronize()
                used = own() - used
                lasted = wall() - start
                taken.append(lasted if by_wall or waited() != waits else used)
        finally:
            gc.enable()
            gc.collect()
        return taken

    def turns(self, request: dict[str, Any]) -> dict[str, Any]:
        """Alternate with the other side; the reply carries minimum, median, mean and number of calls of each turn.

        The turn before the first is not kept: it finds the caches full of another cell.
        """
        kept: list[dict[str, float]] = []
        begins, count = bool(request["begins"]), int(request["turns"])
        for number in range(count + 1):
            if number or not begins:
                self.baton.take(float(request["patience"]))
            try:
                taken = sorted(attempt(lambda: self.timed(request["cell"], int(request["calls"]))))
            except RefusalError:
                self.baton.hand_over(Baton.STOP)
                raise
            if number < count or begins:  # the very last turn has no next
                self.baton.hand_over()
            kept.append(
                {
                    "min": taken[0],
                    "median": taken[len(taken) // 2],
                    "mean": sum(taken) / len(taken),
                    "calls": len(taken),
                }
            )
        return {"turns": kept[1:]}

    def count(self, request: dict[str, Any]) -> dict[str, Any]:
        """Deterministic integer metrics of a cell, where they come from, and whether its results can be trusted.

        Three results are left in files: of the first call, of one after all others (".again"), and of one whose
        arguments were changed in place (".moved"): what a kernel remembers of calls before is wrong there.
        """
        import torch
        from hograd_bench import metrics

        subject = self._subject(request["cell"])
        torch.set_num_threads(subject.cell.threads)
        path = request["result"]
        # The instruments warm up themselves; this says whether the cell runs at all.
        said: dict[str, Any] = {"shapes": self.save(attempt(lambda: seeded(subject)), path), **rounding_of(subject)}
        if request.get("truth"):
            said["wrong"] = untrue(subject)
        values: dict[str, int] = {}
        missing: dict[str, str] = {}
        details: dict[str, Any] = {}
        for family in metrics.families().values():
            wanted = {m.name for m in family.METRICS if m.deterministic and m.unit in request["units"]}
            if not wanted or getattr(family, "__name__", "").endswith(tuple(request.get("without", []))):
                continue
            read = family.measure(subject)
            for name in sorted(wanted):
                value = read.values.get(name)
                if isinstance(value, int) and not isinstance(value, bool):
                    values[name] = value
                elif value is not None and not isinstance(value, float | bool | str):
                    missing[name] = str(getattr(value, "reason", value))
            details.update(read.details)
        said["again"] = self.save(attempt(lambda: seeded(subject)), f"{path}.again")
        said |= self.moved(subject, f"{path}.moved", truth=bool(request.get("truth")) and not said["wrong"])
        del self.subjects[request["cell"]]
        return {"values": values, "missing": missing, "details": details, **said}

    def moved(self, subject: Any, path: str, *, truth: bool) -> dict[str, Any]:
        """The result at half of every argument, which any binary format holds exactly; nothing where that fails.

        "proved" says that it is the truth there, so that the other side's need not agree.
        """
        arguments = getattr(subject, "arguments", None)
        if arguments is None:  # an older suite
            return {}
        try:
            halve(arguments)
            result = attempt(lambda: seeded(subject))
        except RefusalError:  # singular there, say; the other side will tell
            return {}
        why = untrue_at_half(subject, result) if truth else None
        judged = {"wrong": why, "proved": not why} if why is not None else {}
        return {"moved": self.save(result, path), **judged}


def seeded(subject: Any) -> Any:
    """The cell's call from the same random numbers each time."""
    import torch

    torch.manual_seed(0)
    result = subject.call()
    return subject.tensors(result) if hasattr(subject, "tensors") else result  # an older suite has no peers


def halve(arguments: tuple[Any, ...]) -> None:
    """Halve floating-point tensors, in tuples, lists and mappings too, and the parameters of modules, in place.

    Once each, however often they are met; one that cannot be written to (an expanded one, say) stays.
    """
    import torch
    from torch.utils import _pytree

    found: dict[int, Any] = {}
    for leaf in _pytree.tree_leaves(arguments):
        for tensor in leaf.parameters() if isinstance(leaf, torch.nn.Module) else [leaf]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                found[id(tensor)] = tensor
    for tensor in found.values():
        with torch.no_grad(), contextlib.suppress(RuntimeError):
            tensor.mul_(0.5)


def preset_of() -> dict[str, Any]:
    """Ids of the gate's cells on this side; none where its suite has no gate yet, with the reason where that fails."""
    try:
        from hograd_bench.gate import preset
    except ImportError:
        return {}
    try:
        return {"preset": [cell.id for cell in preset.cells()]}
    except Exception as error:  # the head's own cells are left to compare, and the gate says so
        return {"unlisted": f"{type(error).__name__}: {error}"}


def methods_of(core: Any) -> list[str]:
    """``operator/method`` of everything registered; empty where the suite is too old to say."""
    operators: dict[str, Any] = getattr(core, "operators", dict)()
    return sorted(f"{operator.name}/{method}" for operator in operators.values() for method in operator.methods)


def rounding_of(subject: Any) -> dict[str, Any]:
    """What decides how far two sides' results of a cell may lie apart."""
    import torch

    method, eps, order = subject.method, torch.finfo(subject.dtype).eps, subject.cell.order
    own = method.tolerance(eps, order) if method.tolerance else None
    return {"eps": eps, "order": order, "exact": bool(method.exact), "tolerance": own}


def untrue(subject: Any) -> str:
    """Why a cell's result is no float64 truth's; empty where it is, or where the suite knows no truth of it."""
    try:
        from hograd_bench.metrics import accuracy
    except ImportError:
        return ""
    judged = attempt(lambda: accuracy.judge(subject))
    return "" if judged.unknown is not None else str(accuracy.verdict(subject) or "")


def untrue_at_half(subject: Any, result: Any) -> str | None:
    """Why a result at halved arguments is no float64 truth's there; empty where it is, None where none is known."""
    try:
        from hograd_bench.metrics.accuracy import against
    except ImportError:  # an older suite
        return None
    exact = subject.precise_arguments()
    halve(exact)
    why = against(subject, result, exact, "half")
    return f"after its arguments were halved in place, as if it remembered earlier calls: {why}" if why else why


def attempt(call: Callable[[], Any]) -> Any:
    """The call's result; what goes wrong is said in the words of the suite's statuses."""
    try:
        return call()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        unsupported = type(error).__name__ == "UnsupportedError"
        reason = getattr(error, "reason", lines[0]) if unsupported else f"{type(error).__name__}: {lines[0]}"
        raise RefusalError("unsupported" if unsupported else "failed", str(reason)) from error


def serve(baton: Baton, roots: list[str]) -> int:
    """Answer requests until "quit" or the end of input."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    worker = Worker(roots, baton)
    for line in sys.stdin:
        request = json.loads(line)
        do = request["do"]
        if do == "quit":
            return 0
        try:
            reply = {"ok": True, **getattr(worker, do)(request)}
        except RefusalError as error:
            reply = {"ok": False, "status": error.status, "reason": str(error)}
        except Exception as error:
            reply = {"ok": False, "status": "failed", "reason": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(reply, default=str) + "\n")
    return 0


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    # The script's own folder (its siblings could hide modules) gives way to the side's roots.
    sys.path[0:1] = sys.argv[4:]
    # Nothing is left to tidy up: without the interpreter's and torch's teardown the next pair starts sooner.
    os._exit(serve(Baton(int(sys.argv[2]), int(sys.argv[3])), sys.argv[4:]))
