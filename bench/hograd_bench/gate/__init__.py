"""The gate: a change may make nothing slower, larger or wrong (docs/gate.md).

===========  ==================================================================================
cli          the command: arguments in, exit code out
run          a whole run: sides in, outcome out
preset       which cells
suite        what a side's suite has, asked in its own process
agreement    whether two results are the same within rounding
exact/       exact metrics against a baseline, or side against side
twins/       time: two processes that take turns
statistics/  bets on the signs of ratios; from ratios to a verdict
revisions/   sides: a tree out of git, an interpreter, an environment
outcome      findings, their weight, the exit code
output/      an outcome for people and programs
===========  ==================================================================================
"""
