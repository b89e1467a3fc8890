"""Tasks to the hosts of a Ray cluster, rows back: who gets what, and what a lost actor or node costs."""

from __future__ import annotations

import itertools
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hograd_bench import schema
from hograd_bench.engine._interface import EngineError, Event, Limits, Task
from hograd_bench.engine._site import Actor, salvage

_OF_RAY = ("OMP_NUM_THREADS", "PYTHONBREAKPOINT")  # which Ray sets in its workers: cells have what this process has


@dataclass(frozen=True)
class Node:
    id: str
    name: str
    cpus: int
    gpus: int


def on(node: Node, what: Any, cpus: int | None = None, gpus: int = 0) -> Any:
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


def variables() -> dict[str, str | None]:
    """What cells anywhere have of this process's environment."""
    own = {name: value for name, value in os.environ.items() if name.startswith("HOGRAD_")}
    return {**{name: os.environ.get(name) for name in _OF_RAY}, **own}


@dataclass(frozen=True)
class Given:
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
class Site:
    """An actor on a node, as this process sees it."""

    node: Node
    number: str
    slots: int
    gpu: bool
    actor: Any
    token: str
    given: dict[int, Given] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)
    settled: int = 0  # by its last step
    ref: Any = None


@dataclass
class Shared:
    """What all runs on one cluster have in common.

    Attributes:
        workers: most processes at once on a host; None: as many as it has CPUs.
        limits: what a cell may take.
        sites: of all runs, since two nodes may be on one host.
        handing_out: held while a site gets tasks.
        stopped: set, each run raises KeyboardInterrupt.
    """

    workers: int | None
    limits: Limits
    sites: list[Site] = field(default_factory=list)
    handing_out: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)


class Crew:
    """The sites of one run of :class:`Ray`, and what is left for them to do."""

    def __init__(
        self, shared: Shared, nodes: Iterable[Node], wanted: Callable[[Task], bool], files: Iterable[str]
    ) -> None:
        self.shared, self.wanted = shared, wanted
        # A host may not see this folder.
        self.files = {path: Path(path).read_text("utf-8", "surrogateescape") for path in files}
        self.nodes = {str(number): node for number, node in enumerate(nodes, 1)}  # those still of use
        self.failed = dict.fromkeys(self.nodes, 0)  # actors that died there without a step between
        self.waiting: dict[bool, deque[Given]] = {True: deque(), False: deque()}  # on a GPU or not
        self.sites: list[Site] = []
        self.numbers = itertools.count()
        self.last_words = ""

    def add(self, given: Iterable[Given]) -> None:
        """Tasks to do."""
        for each in given:
            self.waiting[each.on_gpu].append(each)

    def events(self) -> Iterator[Event]:
        """What happens, until every task settled or is no longer wanted."""
        import ray

        while True:
            if self.shared.stopped.is_set():
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
                self._end(*here)
                here = []
            if not here and self._queues(node, gpu):
                for _ in range(node.gpus if gpu else 1):
                    self._open(number, node, gpu)

    def _queues(self, node: Node, gpu: bool) -> list[deque[Given]]:
        """What a site takes from. Without a GPU, cells for one end as they do anywhere without."""
        queues = [self.waiting[True]] if gpu else [self.waiting[False]] if node.gpus else list(self.waiting.values())
        return [queue for queue in queues if queue]

    def _open(self, number: str, node: Node, gpu: bool) -> None:
        cpus = max(1, node.cpus // node.gpus) if gpu else node.cpus
        slots, token = 1 if gpu else min(node.cpus, self.shared.workers or node.cpus), secrets.token_hex(4)
        actor = on(node, Actor, cpus, int(gpu)).remote(token, slots, self.shared.limits, variables(), self.files)
        site = Site(node, number, slots, gpu, actor, token)
        self.sites.append(site)
        with self.shared.handing_out:
            self.shared.sites.append(site)

    def _hand_out(self, site: Site) -> None:
        """Let an idle site go on, with more to do and without what is no longer wanted."""
        with self.shared.handing_out:
            unwanted = [n for n, each in site.given.items() if n not in site.begun and not self.wanted(each.task)]
            for number in unwanted:
                del site.given[number]
            more = self._batch(site)
            site.given |= more
        if site.given or unwanted:
            site.ref = site.actor.step.remote({n: each.task for n, each in more.items()}, unwanted)

    def _batch(self, site: Site) -> dict[int, Given]:
        """What a site gets beside what it has: twice what it did in its last step, at the end less."""
        beside = [
            each
            for other in self.shared.sites
            if other is not site and other.node.name == site.node.name
            for each in other.given.values()
        ]
        left = sum(map(len, self._queues(site.node, site.gpu)))
        size = min(2 * max(site.slots, site.settled) - len(site.given), -(-left // len(self.sites)))
        batch: dict[int, Given] = {}
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

    def _take(self, site: Site) -> Iterator[Event]:
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

    def _settle(self, site: Site, number: int, row: dict[str, Any]) -> Event:
        site.begun.discard(number)
        details = {**row["details"], "host": site.number}
        return Event(site.given.pop(number).task, {**row, "details": details})

    def _lose(self, site: Site, error: Exception) -> Iterator[Event]:
        """An actor died: where its node still answers, it knows what ran, which are rows; else all goes back, once."""
        import ray

        self.last_words = str(error).strip().splitlines()[-1].strip()
        ray.kill(site.actor)  # it may be out of reach alone
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
                if told is None or each.lost:  # one of them may lose the next node, too: all others first
                    self.waiting[each.on_gpu].append(replace(each, lost=True))
                else:
                    self.waiting[each.on_gpu].appendleft(each)
                continue
            if number not in site.begun:
                yield Event(each.task)
            yield self._settle(site, number, row)

    def _forget(self, site: Site) -> None:
        self.sites.remove(site)
        with self.shared.handing_out:
            self.shared.sites.remove(site)

    def _end(self, *sites: Site) -> None:
        import ray

        closing = {site.actor.close.remote(): site for site in sites if site.ref is None}
        ready = ray.wait(list(closing), num_returns=len(closing), timeout=10)[0] if closing else []
        for site in sites:
            ray.kill(site.actor)
            self._forget(site)
        for site in set(sites) - {closing[ref] for ref in ready if _went_well(ref)}:
            _salvage_of(site)  # a task of its own, for which Ray starts a process

    def close(self) -> None:
        """End all sites."""
        self._end(*self.sites)


def _went_well(ref: Any) -> bool:
    import ray

    try:
        ray.get(ref)
    except ray.exceptions.RayError:
        return False
    return True


def _salvage_of(site: Site) -> dict[int, Any] | None:
    """What a dead actor left on its node; None: the node is lost, too."""
    import ray

    try:
        left: dict[int, Any] = ray.get(on(site.node, salvage, 0).remote(site.token), timeout=60)
    except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
        return None
    return left
