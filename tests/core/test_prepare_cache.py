"""What one process has compiled, the next takes from the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prepare_fakes import needs_compiler

AGAIN = """
import json
from prepare_fakes import V, X, close, network
import hograd_core as h
from torch._dynamo.utils import counters

f = network()
p = h.prepare(h.hvp, f, X, preparation="compiled")
assert p.preparation == "compiled", p.explain()
assert close(p(X, V), h.hvp(f, X, V))
print(json.dumps(counters["inductor"]))
"""


@needs_compiler
@pytest.mark.slow
def test_a_second_process_finds_the_kernel_on_disk() -> None:
    """By inductor's own counts; on whatever cache the tests use, so that headers are not compiled for this test."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    environment.pop("TORCHINDUCTOR_FORCE_DISABLE_CACHES", None)
    counts = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", AGAIN], env=environment, capture_output=True, text=True, check=True
        )
        counts.append(json.loads(done.stdout.splitlines()[-1]))
    first, second = counts
    assert first.get("fxgraph_cache_hit", 0) + first.get("fxgraph_cache_miss", 0) >= 1
    assert (second.get("fxgraph_cache_hit", 0) >= 1, second.get("fxgraph_cache_miss", 0)) == (True, 0), second
