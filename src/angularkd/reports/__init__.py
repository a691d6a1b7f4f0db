"""Reports: finished runs, and studies, as one HTML file that opens from disk, with its figures beside it.

A new figure is a function that returns a `Plot` in a file of its own, and a line where its page is put together: `single` (one run),
`comparison` (several), `studied` (a study).
"""

from angularkd.reports.observing import Networks
from angularkd.reports.record import Record, read_record
from angularkd.reports.together import MOST_RUNS
from angularkd.reports.writing import check_libraries, is_study, report_run, report_runs, report_study

__all__ = [
    "MOST_RUNS",
    "Networks",
    "Record",
    "check_libraries",
    "is_study",
    "read_record",
    "report_run",
    "report_runs",
    "report_study",
]
