"""Cells on the hosts of a Ray cluster: on each the same processes as here, in a session of its own.

A host is a Ray node whose every CPU an actor holds (_site.py), so that what is timed there has the host to itself; one
with GPUs has an actor a GPU while there are cells for GPUs. This process plans, hands out some seconds of cells at a
time (_crew.py) and takes rows: what a cell's process does is the session's to say, so that every status means what it
means here. Ray itself is told never to repeat anything.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from hograd_bench import environment, system_info
from hograd_bench.engine._crew import Crew, Given, Node, Shared, on, variables
from hograd_bench.engine._interface import EngineError, Event, Limits, Task
from hograd_bench.engine._site import PROBE, ask


class Cluster:
    """A connection to a Ray cluster, or a cluster of this machine alone that ends with it. Use as a context manager.

    Args:
        address: of a running cluster, as ``ray.init`` takes it; None: RAY_ADDRESS, or else a cluster of one's own.
        workers: most processes at once on a host; None: as many as Ray gives it CPUs.
        limits: what a cell may take.

    Raises:
        EngineError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, limits: Limits = Limits()) -> None:  # noqa: B008 (frozen)
        try:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            import ray
        except ImportError:
            raise EngineError("Ray is not installed in this environment; pip install 'hograd[ray]'") from None
        self.shared = Shared(workers, limits)
        self._folder: str | None = None
        address = address or os.environ.get("RAY_ADDRESS")
        given: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        if address is None:
            # The path of a socket holds 107 bytes, of which Ray's own names take 65 and this folder's 16.
            self._folder = tempfile.mkdtemp(prefix="hograd-", dir=None if len(tempfile.gettempdir()) < 25 else "/tmp")
            if "RAY_AUTH_MODE" not in os.environ:
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray leaves one in the home folder
            # What comes back are rows; a cell's memory is its process's, and its limit the engine's.
            given |= {"num_cpus": workers, "include_dashboard": False, "object_store_memory": 2**27}
            given |= {"_temp_dir": self._folder, "_system_config": {"memory_monitor_refresh_ms": 0}}
        try:
            ray.init(address=address or "local", **given)
        except Exception as error:  # ConnectionError, ValueError, RuntimeError, ...: Ray's own words say which
            self.close()
            raise EngineError(f"no Ray cluster at {address or 'this machine'}: {error}") from None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; a cluster of one's own ends, and its files go."""
        import ray

        ray.shutdown()
        for _ in range(100):  # its processes may be at their last words
            if self._folder is None or not os.path.exists(self._folder):
                break
            shutil.rmtree(self._folder, ignore_errors=True)
            time.sleep(0.1)

    def stop(self) -> None:
        """Let every run on this cluster raise KeyboardInterrupt."""
        self.shared.stopped.set()

    def machines(self, packages: Iterable[str] = ()) -> list[Ray]:
        """An engine for each kind of machine in the cluster: hosts that differ in no fact that can change a figure.

        Args:
            packages: distributions whose versions are recorded beyond those that hograd requires.

        Raises:
            EngineError: a host has no hograd, or another one than this process, or none came free in time.
        """
        import ray

        source = system_info.source()
        kinds: list[tuple[dict[str, Any], list[Node], list[dict[str, Any]]]] = []
        by_name: dict[str, list[Node]] = {}
        for node in _nodes():
            by_name.setdefault(node.name, []).append(node)
        if not by_name:
            raise EngineError("the Ray cluster has no node with a CPU to work on")
        for wave in itertools.zip_longest(*by_name.values()):  # no two ceilings at once on one host
            asked = {
                on(node, ask, gpus=min(1, node.gpus)).remote(sorted(packages), variables()): node
                for node in wave
                if node
            }
            ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE)
            if late:
                names = ", ".join(sorted(asked[ref].name for ref in late))
                raise EngineError(f"{names}: not free within {PROBE:.0f} s; wait for what else runs there, or end it")
            for ref in ready:
                found = _answer(ref, asked[ref])
                if found["source"] != source:
                    raise EngineError(
                        f"{asked[ref].name}: got hograd {found['source']}, expected {source}, as here; "
                        "install the same on every host"
                    )
                for here, nodes, all_found in kinds:
                    if environment.comparable(here, found, "cuda").level == "full":
                        nodes.append(asked[ref])
                        all_found.append(found)
                        break
                else:
                    kinds.append((found, [asked[ref]], [found]))
        return [Ray(self.shared, _of_kind(all_found), nodes) for _, nodes, all_found in kinds]


def _nodes() -> list[Node]:
    """The nodes that are alive and have CPUs to give."""
    import ray

    found = []
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"] and has.get("CPU", 0) >= 1:
            found.append(Node(node["NodeID"], node["NodeManagerHostname"], int(has["CPU"]), int(has.get("GPU", 0))))
    return sorted(found, key=lambda node: node.id)


def _answer(ref: Any, node: Node) -> Any:
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise EngineError(f"{node.name}: {last}; every host needs hograd as it is here, and Ray") from None


def _of_kind(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One environment for hosts of one kind: what they share, the best of their ceilings, and what each has apart."""
    first = {**found[0], "ceilings": _best([each["ceilings"] for each in found])}
    apart = [{key: value for key, value in each.items() if value != first[key]} for each in found]
    return {**first, "hosts": {str(number): own for number, own in enumerate(apart, 1)}}


def _best(found: Sequence[Any]) -> Any:
    """The largest of each figure: a roof that no host's cell is above."""
    if isinstance(found[0], dict):
        return {key: _best([each[key] for each in found if key in each]) for key in found[0]}
    return max((value for value in found if value is not None), default=None)


class Ray:
    """Runs cells on hosts of one kind of machine; made by :meth:`Cluster.machines`."""

    def __init__(self, shared: Shared, here: dict[str, Any], nodes: Sequence[Node]) -> None:
        self._shared, self._here, self._nodes = shared, here, nodes

    def environment(self, packages: Iterable[str] = ()) -> dict[str, Any]:
        """See :meth:`hograd_bench.engine.Engine.environment`; what a host has apart from the others is in ``hosts``."""
        return {key: value for key, value in self._here.items() if key != "ceilings"}

    def ceilings(self) -> dict[str, Any]:
        """See :meth:`hograd_bench.engine.Engine.ceilings`: the best of the hosts'."""
        return dict(self._here["ceilings"])

    def run(self, tasks: Sequence[Task], wanted: Callable[[Task], bool] = lambda task: True) -> Iterator[Event]:
        """See :meth:`hograd_bench.engine.Engine.run`. That a task was started is said up to some seconds later."""
        crew = Crew(self._shared, self._nodes, wanted, {path for task in tasks for path in task.host.problem_files})
        crew.add(Given(task) for task in sorted(tasks, key=lambda task: task.timed))
        try:
            yield from crew.events()
        finally:
            crew.close()
