"""The engine: a cell runs in a process and leaves a row. Everything that needs a process of its own asks here.

``Engine`` is the interface: tasks in, rows out as they end; only who asked writes them. ``Local`` runs them on this
machine; ``Cluster`` is a Ray cluster, with an engine for each kind of machine in it. ``call`` runs one function of a
host's suite, ``suite`` several, and ``called`` leaves its process to cells. ``Child`` is a process by itself, for
instruments that need two at once.

What goes wrong in a cell is its row's status: ``failed``, ``oom``, ``timeout``, ``crashed``. What to do then (to skip
larger cells, to try again, to resume) is for whoever asked: see ``driver.py``.
"""

from hograd_bench.engine._interface import FATAL as FATAL
from hograd_bench.engine._interface import Engine as Engine
from hograd_bench.engine._interface import EngineError as EngineError
from hograd_bench.engine._interface import Event as Event
from hograd_bench.engine._interface import Host as Host
from hograd_bench.engine._interface import Limits as Limits
from hograd_bench.engine._interface import Task as Task
from hograd_bench.engine._local import NOT_THERE as NOT_THERE
from hograd_bench.engine._local import Local as Local
from hograd_bench.engine._local import call as call
from hograd_bench.engine._local import called as called
from hograd_bench.engine._local import suite as suite
from hograd_bench.engine._process import Child as Child
from hograd_bench.engine._process import LostError as LostError
from hograd_bench.engine._process import die_with_parent as die_with_parent
from hograd_bench.engine.ray import Cluster as Cluster
