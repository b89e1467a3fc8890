"""``python -m hograd_bench.engine BATCH``: a process of the engine; see child.py."""

from hograd_bench.engine.child import main

main()
