"""Functions as their users have them, made problems: loaded in a child process, wherever the engine runs.

A target is named, ``path/to/file.py:name`` or ``package.module:name``, or given as objects. It becomes a problem like
any other (:func:`declare`), so that cells, metrics, laws and the engine need to know nothing of it.
"""

from hograd_bench.targets._describe import describe as describe
from hograd_bench.targets._load import Example as Example
from hograd_bench.targets._load import Loaded as Loaded
from hograd_bench.targets._load import Request as Request
from hograd_bench.targets._load import Target as Target
from hograd_bench.targets._load import TargetError as TargetError
from hograd_bench.targets._problem import PROBLEM as PROBLEM
from hograd_bench.targets._problem import declare as declare
from hograd_bench.targets._problem import declared as declared
from hograd_bench.targets._wide import wide as wide
