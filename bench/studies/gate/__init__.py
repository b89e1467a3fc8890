"""The gate's false alarms and power: process pairs recorded, every rule resampled from them, the table of docs/gate.md.

    python -m studies.gate                 # the table, from docs/data/gate_pairs.jsonl.gz
    python -m studies.gate record | runs | exact

===========  ===========================================================
recording    process pairs and whole runs, in a file and out of it
rules        what other tools gate time with
resampling   whole runs of every rule from recorded pairs
page         the table, a pure function of what was recorded
===========  ===========================================================
"""
