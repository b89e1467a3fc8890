"""Claims: statements about cost, the cells that test them, and verdicts from measured rows.

A claim is one entry of claims.toml. `adjudicate` judges, `explain` shows the reasoning, `render_markdown` writes
docs/claims.md. Nothing here runs a kernel or reads results/; which cells are needed says claim_cells.py.
"""

from hograd_bench.claims._adjudicate import adjudicate as adjudicate
from hograd_bench.claims._adjudicate import explain as explain
from hograd_bench.claims._load import CLAIMS as CLAIMS
from hograd_bench.claims._load import load as load
from hograd_bench.claims._markdown import MARKS as MARKS
from hograd_bench.claims._markdown import render_markdown as render_markdown
from hograd_bench.claims._model import HOLDS as HOLDS
from hograd_bench.claims._model import INSUFFICIENT as INSUFFICIENT
from hograd_bench.claims._model import PARTIAL as PARTIAL
from hograd_bench.claims._model import REFUTED as REFUTED
from hograd_bench.claims._model import Claim as Claim
from hograd_bench.claims._model import Finding as Finding
from hograd_bench.claims._model import Part as Part
from hograd_bench.claims._model import PartVerdict as PartVerdict
from hograd_bench.claims._model import Verdict as Verdict
from hograd_bench.claims._rules import RULES as RULES
from hograd_bench.claims._series import canonical as canonical
from hograd_bench.claims._series import cell_ids as cell_ids
from hograd_bench.claims._series import operations_of as operations_of
