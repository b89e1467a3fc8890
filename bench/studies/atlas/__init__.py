"""The atlas: PyTorch operator x differentiation method x order -> right, unsupported, wrong by how much.

    python -m studies.atlas run            # measures: docs/data/atlas-<torch version>.json
    python -m studies.atlas page           # docs/atlas.md from the facts that lie there

Needs torch, numpy, expecttest and hograd_core.

==================  ==============================================================================
cases               what is differentiated: a scalar function of five numbers through one operator
own                 cases that PyTorch's operator database lacks
truth               central differences of float64 gradients at two steps
probe               one case by every method and order -> outcomes
facts               outcomes -> one line an operator, and back
run, worker         processes with limits; progress; resume
families            wrong operators that share a formula at fault
reproductions       each family in plain torch
page                facts -> docs/atlas.md, a pure function
==================  ==============================================================================
"""
