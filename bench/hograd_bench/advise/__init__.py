"""Which call to make for a function of one's own: measured, held against truth, foretold at other sizes.

    target --describe, in a child--> description --plan--> cells --engine--> rows --> Advice --> terminal, JSON, HTML

Code of the target runs in child processes alone. What follows from rows is pure functions: rankings, the method to
take, the snippet, what happens at other sizes.
"""

from hograd_bench import called
from hograd_bench.advise._advice import Advice as Advice
from hograd_bench.advise._asking import QUICK as QUICK
from hograd_bench.advise._asking import SECONDS as SECONDS
from hograd_bench.advise._asking import advise as advise
from hograd_bench.advise._asking import advise_by_name as advise_by_name
from hograd_bench.advise._plan import NEEDS as NEEDS
from hograd_bench.advise._terminal import show as show

called.as_function(__name__, f"{__name__}:advise")
