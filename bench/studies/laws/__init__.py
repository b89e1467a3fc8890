"""How far laws and verdicts can be trusted: docs/laws.md.

    python -m studies.laws synthetic                                # wrong and undecided verdicts on known truth
    python -m studies.laws prediction --base RUNS --measure DIR     # sizes that nobody measured
    python -m studies.laws stability --base RUNS                    # the same verdicts in every run

Each prints its section; ``--write docs/laws.md`` replaces the one that stands there.

===========  ===========================================================
synthetic    growths with known truth, and what a measurement does to them
known_truth  how often laws decide them wrongly
prediction   laws of the sizes up to N, held against 4N and 8N
sections     the text of each section
===========  ===========================================================
"""
