"""results/ in and out: ``results/<machine>/<run>/{environment.json, rows.jsonl}``. Nothing else writes there.

What holds whatever happens:

- a run's folder appears whole, with its environment, or not at all;
- a row is one line, written under a lock, whole or not at all: a failing write is taken back;
- a process killed in mid-write leaves at most one torn last line, which the next writer moves aside;
- a copy that speeds reading up is never needed, and never read where the rows have changed since;
- reading never executes anything, and one bad line or file costs that line or file, with a warning that names it.
"""

from hograd_bench.store._common import ENVIRONMENT as ENVIRONMENT
from hograd_bench.store._common import ROWS as ROWS
from hograd_bench.store._common import TORN as TORN
from hograd_bench.store._common import ReadWarning as ReadWarning
from hograd_bench.store._common import StoreError as StoreError
from hograd_bench.store._common import replacing as replacing
from hograd_bench.store._frames import Details as Details
from hograd_bench.store._frames import frame_of as frame_of
from hograd_bench.store._frames import metric_columns as metric_columns
from hograd_bench.store._frames import newest as newest
from hograd_bench.store._frames import plain as plain
from hograd_bench.store._loading import Results as Results
from hograd_bench.store._loading import environment_of as environment_of
from hograd_bench.store._loading import find_run as find_run
from hograd_bench.store._loading import load as load
from hograd_bench.store._loading import read_rows as read_rows
from hograd_bench.store._loading import run_folders as run_folders
from hograd_bench.store._texts import texts_of as texts_of
from hograd_bench.store._writing import Run as Run
from hograd_bench.store._writing import create_run as create_run
from hograd_bench.store._writing import new_run_id as new_run_id
from hograd_bench.store._writing import open_run as open_run
