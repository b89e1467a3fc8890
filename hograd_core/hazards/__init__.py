"""What PyTorch gets wrong, as data; the guard that every public call passes; exact substitutes.

Some operators of PyTorch have a derivative that is right once and wrong when it is differentiated again by some
composition of modes: without an error, without a warning. The atlas (docs/atlas.md) finds them; :mod:`table` lists
them; :mod:`_guard` looks for them in the graph that f has just recorded, and refuses; :mod:`_substitutes` computes the
same functions by formulas whose derivatives are right (``repair=True``).
"""

from hograd_core.hazards._guard import Guard as Guard
from hograd_core.hazards._guard import guard as guard
from hograd_core.hazards._guard import guarded as guarded
from hograd_core.hazards._guard import ignored as ignored
from hograd_core.hazards._guard import narrowed as narrowed
from hograd_core.hazards._hazard import Hazard as Hazard
from hograd_core.hazards._hazard import nearest_tested as nearest_tested
from hograd_core.hazards._substitutes import SUBSTITUTES as SUBSTITUTES
from hograd_core.hazards.table import HAZARDS as HAZARDS
from hograd_core.hazards.table import TESTED as TESTED
