"""The rules that claims.toml may name."""

from __future__ import annotations

from hograd_bench.claims._beats import BEATS
from hograd_bench.claims._bounds import BOUNDED, STEP_AT_LEAST
from hograd_bench.claims._growth import FAMILY_IN_ORDER, GROWTH_AT_MOST, GROWTH_EQUALS
from hograd_bench.claims._rule import Rule

RULES: dict[str, Rule] = {
    rule.name: rule for rule in (GROWTH_AT_MOST, GROWTH_EQUALS, FAMILY_IN_ORDER, BOUNDED, STEP_AT_LEAST, BEATS)
}
