"""A run: a plan, an environment and a folder of rows, with progress for the person who waits.

What becomes of each cell is driver.py's; here are the beginning, the end, and going on after a stop.
"""

from hograd_bench.run._asking import Asked as Asked
from hograd_bench.run._asking import loaded as loaded
from hograd_bench.run._asking import planned as planned
from hograd_bench.run._display import signs_of_life as signs_of_life
from hograd_bench.run._outcome import Outcome as Outcome
from hograd_bench.run._outcome import RunError as RunError
from hograd_bench.run._resuming import recorded as recorded
from hograd_bench.run._running import everywhere as everywhere
from hograd_bench.run._running import run as run
