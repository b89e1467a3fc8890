"""What the chapter promises and what keeps it: operators, tests, cells, claims. ``python -m studies.coverage``."""

from studies.coverage._look_up import COVERAGE as COVERAGE
from studies.coverage._look_up import Group as Group
from studies.coverage._look_up import World as World
from studies.coverage._look_up import faults as faults
from studies.coverage._look_up import load as load
from studies.coverage._look_up import look_around as look_around
from studies.coverage._markdown import render as render
