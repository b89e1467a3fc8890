"""Truncated Taylor propagation (Griewank & Walther 2008, ch. 13): a rule a PyTorch operation, and the driver."""

from hograd_core.taylor._jet import MissingRuleError as MissingRuleError
from hograd_core.taylor._jet import coverage as coverage
from hograd_core.taylor._jet import rule as rule
from hograd_core.taylor._series import Series as Series
from hograd_core.taylor.driver import derivatives_along as derivatives_along
from hograd_core.taylor.driver import propagate as propagate
from hograd_core.taylor.driver import summed_along as summed_along
