"""Cells on the hosts of a Ray cluster: on each the same processes as here, in a :class:`Session` of its own.

A host is a Ray node whose every CPU an actor holds (:class:`_Site`), so that what is timed there has the host to itself;
one with GPUs has an actor a GPU while there are cells for GPUs. This process plans, hands out some seconds of cells at a
time, and takes rows: what a cell's process does is the session's to say, so that every status means what it means here.
Ray itself never repeats anything: what a lost actor or node costs is decided in :class:`_Crew`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hograd_bench import environment, schema, system_info
from hograd_bench.engine._interface import FATAL, EngineError, Event, Host, Limits, Task
from hograd_bench.engine._local import Session, call

_STEP = 2.0  # seconds of work whose rows come back together, and are measured again when this process is lost
_PROBE = 300.0  # seconds for a host's environment and ceilings, and for its CPUs to be free
_REFRESH = 5.0  # seconds between looks at which nodes are alive
_OF_RAY = ("OMP_NUM_THREADS", "PYTHONBREAKPOINT")  # which Ray sets in its workers: cells have what this process has


@dataclass(frozen=True)
class _Node:
    id: str
    name: str
    cpus: int
    gpus: int


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
        self.workers, self.limits = workers, limits
        self.stopped = threading.Event()
        self.handing_out = threading.Lock()
        self.sites: list[_Site] = []
        self._folder: str | None = None
        address = address or os.environ.get("RAY_ADDRESS")
        given: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        if address is None:
            # The path of a socket holds 107 bytes, of which Ray's own names take 80.
            self._folder = tempfile.mkdtemp(prefix="hr-", dir=None if len(tempfile.gettempdir()) < 12 else "/tmp")
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
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self) -> None:
        """Let every run on this cluster raise KeyboardInterrupt."""
        self.stopped.set()

    def machines(self, packages: Iterable[str] = ()) -> list[Ray]:
        """An engine for each kind of machine in the cluster: hosts that differ in no fact that can change a figure.

        Args:
            packages: distributions whose versions are recorded beyond those that hograd requires.

        Raises:
            EngineError: a host has no hograd, or another one than this process, or none came free in time.
        """
        import ray

        source = system_info.source()
        kinds: list[tuple[dict[str, Any], list[_Node], list[dict[str, Any]]]] = []
        by_name: dict[str, list[_Node]] = {}
        for node in _nodes():
            by_name.setdefault(node.name, []).append(node)
        if not by_name:
            raise EngineError("the Ray cluster has no node with a CPU to work on")
        for wave in itertools.zip_longest(*by_name.values()):  # no two ceilings at once on one host
            asked = {_on(node, _ask, gpus=min(1, node.gpus)).remote(sorted(packages), _variables()): node for node in wave if node}
            ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE)
            if late:
                names = ", ".join(sorted(asked[ref].name for ref in late))
                raise EngineError(f"{names}: not free within {_PROBE:.0f} s; wait for what else runs there, or end it")
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
        return [Ray(self, _of_kind(all_found), nodes) for _, nodes, all_found in kinds]


def _nodes() -> list[_Node]:
    """The nodes that are alive and have CPUs to give."""
    import ray

    found = []
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"] and has.get("CPU", 0) >= 1:
            found.append(_Node(node["NodeID"], node["NodeManagerHostname"], int(has["CPU"]), int(has.get("GPU", 0))))
    return sorted(found, key=lambda node: node.id)


def _on(node: _Node, what: Any, cpus: int | None = None, gpus: int = 0) -> Any:
    """A function or class as Ray's, on that node alone, with all of its CPUs unless said."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    never = {"max_restarts": 0, "max_task_retries": 0} if isinstance(what, type) else {"max_retries": 0}
    return ray.remote(what).options(
        num_cpus=node.cpus if cpus is None else cpus,
        num_gpus=gpus,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node.id, soft=False),
        **never,
    )


def _answer(ref: Any, node: _Node) -> Any:
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise EngineError(f"{node.name}: {last}; every host needs hograd as it is here, and Ray") from None


def _variables() -> dict[str, str | None]:
    """What cells anywhere have of this process's environment."""
    own = {name: value for name, value in os.environ.items() if name.startswith("HOGRAD_")}
    return {**{name: os.environ.get(name) for name in _OF_RAY}, **own}


def probe(packages: list[str]) -> dict[str, Any]:
    """On a host, in a process as cells have it: its environment, with its ceilings."""
    from hograd_bench import ceilings

    return {**environment.record(packages), "ceilings": ceilings.measure()}


def _ask(packages: list[str], variables: Mapping[str, str | None]) -> dict[str, Any]:
    host = Host(python=sys.executable, variables=variables)
    found: dict[str, Any] = call(host, f"{__name__}:probe", packages, seconds=_PROBE)
    found["variables"].pop("CUDA_VISIBLE_DEVICES", None)  # which of its GPUs Ray gave to this process
    return found


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

    def __init__(self, cluster: Cluster, here: dict[str, Any], nodes: Sequence[_Node]) -> None:
        self.cluster, self._here, self._nodes = cluster, here, list(nodes)

    def environment(self, packages: Iterable[str] = ()) -> dict[str, Any]:
        """See :meth:`hograd_bench.engine.Engine.environment`; what a host has apart from the others is in ``hosts``."""
        return {key: value for key, value in self._here.items() if key != "ceilings"}

    def ceilings(self) -> dict[str, Any]:
        """See :meth:`hograd_bench.engine.Engine.ceilings`: the best of the hosts'."""
        return dict(self._here["ceilings"])

    def run(self, tasks: Sequence[Task], wanted: Callable[[Task], bool] = lambda task: True) -> Iterator[Event]:
        """See :meth:`hograd_bench.engine.Engine.run`. That a task was started is said up to some seconds later."""
        crew = _Crew(self.cluster, self._nodes, wanted, {path for task in tasks for path in task.host.problem_files})
        crew.add(_Given(task) for task in sorted(tasks, key=lambda task: task.timed))
        try:
            yield from crew.events()
        finally:
            crew.close()


@dataclass(frozen=True)
class _Given:
    task: Task
    lost: bool = False

    @property
    def on_gpu(self) -> bool:
        return self.task.cell.device == "cuda"

    @property
    def exclusive(self) -> bool:
        """Whether nothing else may run on its host; a GPU's time is its own."""
        return self.task.timed and not self.on_gpu


@dataclass(eq=False)
class _Site:
    """An actor on a node, as this process sees it."""

    node: _Node
    number: str
    slots: int
    gpu: bool
    actor: Any
    token: str
    given: dict[int, _Given] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)
    settled: int = 0  # by its last step
    ref: Any = None


class _Crew:
    """The sites of one run of :class:`Ray`, and what is left for them to do."""

    def __init__(self, cluster: Cluster, nodes: list[_Node], wanted: Callable[[Task], bool], files: Iterable[str]) -> None:
        self.cluster, self.wanted = cluster, wanted
        self.files = {path: Path(path).read_text(encoding="utf-8") for path in files}  # a host may not see this folder
        self.nodes = {str(number): node for number, node in enumerate(nodes, 1)}  # those still of use
        self.failed: dict[str, int] = dict.fromkeys(self.nodes, 0)  # actors that died, one after the other
        self.waiting: dict[bool, deque[_Given]] = {True: deque(), False: deque()}  # on a GPU or not
        self.sites: list[_Site] = []
        self.numbers = itertools.count()
        self.last_words = ""

    def add(self, given: Iterable[_Given]) -> None:
        """Tasks to do."""
        for each in given:
            self.waiting[each.on_gpu].append(each)

    def events(self) -> Iterator[Event]:
        """What happens, until every task settled or is no longer wanted."""
        import ray

        while True:
            if self.cluster.stopped.is_set():
                raise KeyboardInterrupt
            self._man()
            for site in self.sites:
                if site.ref is None:
                    self._hand_out(site)
            at_work = {site.ref: site for site in self.sites if site.ref is not None}
            if at_work:
                for ref in ray.wait(list(at_work), timeout=1.0)[0]:
                    yield from self._take(at_work[ref])
            elif not any(self.waiting.values()):
                return
            elif not self.nodes:
                raise EngineError(f"no host of this kind is left in the Ray cluster: {self.last_words}")
            else:  # another run of this cluster has the host
                time.sleep(0.1)

    def _man(self) -> None:
        """Sites where there is work: an actor a GPU while there is any for GPUs, else one for the whole host."""
        for number, node in self.nodes.items():
            here = [site for site in self.sites if site.number == number]
            gpu = bool(node.gpus and self.waiting[True])
            if here and here[0].gpu != gpu and not any(site.given for site in here) and self._queues(node, gpu):
                for site in here:
                    self._end(site)
                here = []
            if not here and self._queues(node, gpu):
                for _ in range(node.gpus if gpu else 1):
                    self._open(number, node, gpu)

    def _queues(self, node: _Node, gpu: bool) -> list[deque[_Given]]:
        """What a site takes from. Without a GPU, cells for one end as they do anywhere without."""
        queues = [self.waiting[True]] if gpu else [self.waiting[False]] if node.gpus else list(self.waiting.values())
        return [queue for queue in queues if queue]

    def _open(self, number: str, node: _Node, gpu: bool) -> None:
        cpus = max(1, node.cpus // node.gpus) if gpu else node.cpus
        slots, token = 1 if gpu else min(node.cpus, self.cluster.workers or node.cpus), secrets.token_hex(4)
        actor = _on(node, _Actor, cpus, int(gpu)).remote(token, slots, self.cluster.limits, _variables(), self.files)
        site = _Site(node, number, slots, gpu, actor, token)
        self.sites.append(site)
        with self.cluster.handing_out:
            self.cluster.sites.append(site)

    def _hand_out(self, site: _Site) -> None:
        """Let an idle site go on, with more to do and without what is no longer wanted."""
        with self.cluster.handing_out:  # for all kinds of machine at once: two nodes may be on one host
            unwanted = [n for n, each in site.given.items() if n not in site.begun and not self.wanted(each.task)]
            for number in unwanted:
                del site.given[number]
            more = self._batch(site)
            site.given |= more
        if site.given:
            site.ref = site.actor.step.remote({n: each.task for n, each in more.items()}, unwanted)

    def _batch(self, site: _Site) -> dict[int, _Given]:
        """What a site gets beside what it has: twice what it did in its last step, at the end less."""
        beside = [
            each
            for other in self.cluster.sites
            if other is not site and other.node.name == site.node.name
            for each in other.given.values()
        ]
        left = sum(map(len, self._queues(site.node, site.gpu)))
        size = min(2 * max(site.slots, site.settled) - len(site.given), -(-left // len(self.sites)))
        batch: dict[int, _Given] = {}
        if any(each.exclusive for each in beside) or any(each.lost for each in site.given.values()):
            return batch
        for queue in self._queues(site.node, site.gpu):
            while queue and len(batch) < size:
                if not self.wanted(queue[0].task):
                    queue.popleft()
                elif queue[0].exclusive and beside:
                    break
                elif queue[0].lost and (site.given or batch):  # whether it is to blame shows when it is alone
                    return batch
                else:
                    batch[next(self.numbers)] = given = queue.popleft()
                    if given.lost:
                        return batch
        return batch

    def _take(self, site: _Site) -> Iterator[Event]:
        """What a step brought."""
        import ray

        ref, site.ref = site.ref, None
        try:
            answer = ray.get(ref)
        except ray.exceptions.RayError as error:
            yield from self._lose(site, error)
            return
        if isinstance(answer, str):
            raise EngineError(f"{site.node.name}: {answer}")
        begun, rows = answer
        self.failed[site.number] = 0
        site.settled = len(rows)
        for number in begun:
            if number in site.given:
                site.begun.add(number)
                yield Event(site.given[number].task)
        for number, row in rows:
            if number in site.given:
                yield self._settle(site, number, row)

    def _settle(self, site: _Site, number: int, row: dict[str, Any]) -> Event:
        site.begun.discard(number)
        details = {**row["details"], "host": site.number}
        return Event(site.given.pop(number).task, {**row, "details": details})

    def _lose(self, site: _Site, error: Exception) -> Iterator[Event]:
        """An actor died: where its node still answers, it knows what ran, which are rows; else all goes back, once."""
        self.last_words = str(error).strip().splitlines()[-1].strip()
        told = _salvage_of(site)
        self._forget(site)
        self.failed[site.number] += 1
        if told is None or self.failed[site.number] == 3:
            self.nodes.pop(site.number, None)
        for number, each in list(site.given.items()):
            began = number in site.begun or (told is not None and number in told)
            row = told.get(number) if told is not None else None
            if row is None and (told is not None and began):
                status = "oom" if "memory" in str(error).lower() else "crashed"  # as of a process that was killed
                row = schema.row(each.task.cell, status=status, reason=f"its Ray worker died: {self.last_words}")
            elif row is None and told is None and each.lost:
                reason = f"the host that it was alone on was lost, as was one before: {self.last_words}"
                row = schema.row(each.task.cell, status="crashed", reason=reason)
            if row is None:
                self.waiting[each.on_gpu].appendleft(replace(each, lost=each.lost or told is None))
                continue
            if number not in site.begun:
                yield Event(each.task)
            yield self._settle(site, number, row)

    def _forget(self, site: _Site) -> None:
        self.sites.remove(site)
        with self.cluster.handing_out:
            self.cluster.sites.remove(site)

    def _end(self, *sites: _Site) -> None:
        import ray

        for site in sites:
            ray.kill(site.actor)
            self._forget(site)
        for site in sites:
            _salvage_of(site)

    def close(self) -> None:
        """End all sites."""
        self._end(*self.sites)


def _salvage_of(site: _Site) -> dict[int, Any] | None:
    """What a dead actor left on its node; None: the node is lost, too."""
    import ray

    try:
        left: dict[int, Any] = ray.get(_on(site.node, _salvage, 0).remote(site.token), timeout=60)
    except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
        return None
    return left


def _folder(token: str) -> Path:
    return Path(tempfile.gettempdir()) / f"hograd-{token}"


def _salvage(token: str) -> dict[int, Any]:
    """On a node whose actor is gone: number -> row, or None where it was begun; its files go."""
    left: dict[int, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # it died before the first, or in a line
        for line in (_folder(token) / "journal").read_text(encoding="utf-8").splitlines():
            number, row = json.loads(line)
            left[number] = row
    shutil.rmtree(_folder(token), ignore_errors=True)
    return left


class _Actor:
    """On a node: a session, a step at a time. Every event is in a journal before it is in an answer."""

    def __init__(
        self, token: str, slots: int, limits: Limits, variables: dict[str, str | None], files: dict[str, str]
    ) -> None:
        self.folder, self.variables = _folder(token), variables
        self.folder.mkdir()
        self.files = {path: self._here(path, text, number) for number, (path, text) in enumerate(files.items())}
        self.session = Session(slots, limits, {}, self.folder, lasting=True, by_threads=True)
        self.numbers: dict[Task | None, int] = {}

    def step(self, more: dict[int, Task], unwanted: list[int]) -> Any:
        """Go on for some seconds, or until a row that others may depend on, or until more tasks could be at work.

        Returns:
            Numbers of the tasks begun, and (number, row) of those settled; or why no process can start.
        """
        for number in unwanted:
            self.numbers.pop(self.session.pending.pop(number, None), None)  # it may have begun
        for number, task in more.items():
            self.session.pending[number] = there = replace(task, host=self._localised(task.host))
            self.numbers[there] = number
        begun, rows = [], []
        self.session.until = time.monotonic() + _STEP
        try:
            with open(self.folder / "journal", "w", buffering=1, encoding="utf-8") as journal:
                for event in self.session.events():
                    number = self.numbers[event.task]
                    journal.write(json.dumps([number, event.row]) + "\n")
                    if event.row is None:
                        begun.append(number)
                        continue
                    rows.append((number, event.row))
                    del self.numbers[event.task]
                    if event.row["status"] in FATAL or not self.session.pending:
                        self.session.until = 0.0
        except EngineError as error:
            return str(error)
        return begun, rows

    def _localised(self, host: Host) -> Host:
        files = tuple(self.files[path] for path in host.problem_files)
        return replace(
            host, python=sys.executable, problem_files=files, variables={**self.variables, **host.variables}
        )

    def _here(self, path: str, text: str, number: int) -> str:
        """The same file, beside what it may import where folders are shared; else a copy."""
        with contextlib.suppress(OSError, ValueError):
            if Path(path).read_text(encoding="utf-8") == text:
                return path
        copy = self.folder / str(number) / Path(path).name
        copy.parent.mkdir()
        copy.write_text(text, encoding="utf-8")
        return str(copy)
