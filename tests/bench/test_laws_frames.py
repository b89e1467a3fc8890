from __future__ import annotations

import numpy as np
import pytest
from frame_fakes import frame
from hograd_bench import laws
from hograd_bench.laws import ExactLaw, FittedLaw, InsufficientData, NoExactLaw


def chain(metric="peak_bytes", value=lambda n, t: 4 * n * (8 * t - 3), **common):
    sizes = [(n, t) for n in (8, 16, 32) for t in (2, 3, 4, 6, 8, 12)]
    return frame([{"n": n, "depth": t, metric: float(value(n, t)), **common} for n, t in sizes])


def test_law_of_bytes_is_exact_with_the_element_size_factored_out():
    law = laws.law_of(chain(), "peak_bytes")
    assert isinstance(law, ExactLaw)
    assert law.formula == "peak_bytes = 4·n·(8·T − 3)"
    doubled = laws.law_of(chain(value=lambda n, t: 8 * n * t, dtype="float64"), "peak_bytes")
    assert isinstance(doubled, ExactLaw)
    assert doubled.formula == "peak_bytes = 8·n·T"


def test_rows_that_are_not_ok_or_have_no_value_are_left_out():
    rows = chain()
    rows.loc[0, "status"], rows.loc[0, "peak_bytes"] = "oom", 1.0
    rows.loc[1, "peak_bytes"] = np.nan
    law = laws.law_of(rows, "peak_bytes")
    assert isinstance(law, ExactLaw)
    assert len(law.sizes) == 16


def test_runs_that_disagree_have_no_exact_law():
    rows = chain()
    other = rows.copy()
    other.loc[3, "peak_bytes"] += 4
    import pandas as pd

    both = pd.concat([rows, other], ignore_index=True)
    found = laws.exact_law(both, "peak_bytes")
    assert isinstance(found, NoExactLaw)
    assert "not the same" in found.reason
    assert isinstance(laws.exact_law(pd.concat([rows, rows]), "peak_bytes"), ExactLaw)


def test_times_are_fitted():
    rows = frame([{"n": n, "seconds_min": 1e-6 * n} for n in (8, 32, 128, 512, 2048)])
    law = laws.law_of(rows, "seconds_min")
    assert isinstance(law, FittedLaw)
    assert law.low <= 1 <= law.high


def test_a_count_without_exact_law_is_fitted_where_one_size_varies():
    rows = frame([{"n": n, "flops": float(round(n**1.5))} for n in (4, 9, 15, 24, 36, 49, 64, 90)])
    law = laws.law_of(rows, "flops")
    assert isinstance(law, FittedLaw)
    assert law.low <= 1.5 <= law.high


def test_mixed_rows_are_refused():
    mixed = chain()
    mixed.loc[0, "method"] = "jvp_of_grad"
    with pytest.raises(ValueError, match="method"):
        laws.law_of(mixed, "peak_bytes")
    with pytest.raises(ValueError, match="vary together"):
        laws.law_of(chain("seconds_min"), "seconds_min")


def test_absent_metric_and_column():
    assert isinstance(laws.law_of(chain(), "total_bytes"), InsufficientData)
    with pytest.raises(ValueError, match="colour"):
        laws.select(chain(), colour="red")


def test_select():
    assert len(laws.select(chain(), n=[8, 16], depth=2)) == 2
