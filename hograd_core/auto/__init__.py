"""Which method, where nobody named one, or ``"auto"``: from what methods can do, and from what was measured before.

- Without a cache or a probe (``method=None``) a rule decides, the same for every f (:mod:`._rules`).
- ``method="auto"`` looks first into the cache (:mod:`._cache`): times that ``hograd advise`` and ``hograd run`` left
  under ``HOGRAD_CACHE``, of this function or of others of about its size. With ``probe=True`` the candidates are timed
  on f itself.

What is chosen is only ever a method that any call may name, with its guard and its checks; where PyTorch cannot, or
hograd refuses, the next candidate is tried. The choice is the same for the same cache.
"""

from hograd_core.auto._cache import CACHE, FORMAT, Entry, entries
from hograd_core.auto._calling import chosen, compute, decides
from hograd_core.auto._choice import Candidate, Choice, choose
from hograd_core.auto._identity import identity
from hograd_core.auto._rules import Modest

__all__ = [
    "CACHE", "FORMAT", "Candidate", "Choice", "Entry", "Modest", "choose", "chosen", "compute", "decides", "entries",
    "identity",
]  # fmt: skip
