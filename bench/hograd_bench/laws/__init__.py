"""Laws: how a metric grows with n, T, batch and order. Pure functions; nothing here runs a kernel.

Exact laws (`fit_exact`) for bytes and counts, fitted laws (`fit_power`) for times, growth in the order
(`fit_orders`, `find_recurrence`), crossings (`crossover`). `law_of` and its siblings take frames; the module called,
`hograd_bench.laws(frame)`, is `table`: the laws of all series of a frame.
docs/laws.md says how often they are wrong on data with known truth.
"""

from hograd_bench import called
from hograd_bench.laws._outcomes import InsufficientData as InsufficientData
from hograd_bench.laws._outcomes import NoExactLaw as NoExactLaw
from hograd_bench.laws.crossover import Crossover as Crossover
from hograd_bench.laws.crossover import crossover as crossover
from hograd_bench.laws.decisions import Decision as Decision
from hograd_bench.laws.decisions import compare as compare
from hograd_bench.laws.decisions import decide as decide
from hograd_bench.laws.decisions import decide_family as decide_family
from hograd_bench.laws.decisions import is_settled as is_settled
from hograd_bench.laws.decisions import rate as rate
from hograd_bench.laws.exact import ExactLaw as ExactLaw
from hograd_bench.laws.exact import fit_exact as fit_exact
from hograd_bench.laws.fitted import FittedLaw as FittedLaw
from hograd_bench.laws.fitted import Prediction as Prediction
from hograd_bench.laws.fitted import fit_power as fit_power
from hograd_bench.laws.frames import Law as Law
from hograd_bench.laws.frames import exact_law as exact_law
from hograd_bench.laws.frames import fitted_law as fitted_law
from hograd_bench.laws.frames import is_exact as is_exact
from hograd_bench.laws.frames import law_of as law_of
from hograd_bench.laws.frames import points as points
from hograd_bench.laws.frames import select as select
from hograd_bench.laws.frames import table as table
from hograd_bench.laws.orders import OrderLaw as OrderLaw
from hograd_bench.laws.orders import fit_orders as fit_orders
from hograd_bench.laws.polynomial import Polynomial as Polynomial
from hograd_bench.laws.recurrences import Recurrence as Recurrence
from hograd_bench.laws.recurrences import find_recurrence as find_recurrence

called.as_function(__name__, f"{__name__}:table")
