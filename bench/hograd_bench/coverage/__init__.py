"""What the chapter promises and what keeps it: operators, tests, cells, claims. ``python -m hograd_bench.coverage``."""

from hograd_bench.coverage._look_up import COVERAGE as COVERAGE
from hograd_bench.coverage._look_up import Group as Group
from hograd_bench.coverage._look_up import World as World
from hograd_bench.coverage._look_up import faults as faults
from hograd_bench.coverage._look_up import load as load
from hograd_bench.coverage._look_up import look_around as look_around
from hograd_bench.coverage._markdown import render as render
