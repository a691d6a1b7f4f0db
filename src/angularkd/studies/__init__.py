"""Studies: pairs x objectives x seeds, resumable, on this machine or on Ray, to one table with intervals and corrected p values."""

from angularkd.studies.lines import read_lines
from angularkd.studies.progress import StudyReporter
from angularkd.studies.statistics import Sample, difference
from angularkd.studies.study import Study, run_study, study_of
from angularkd.studies.summary import Row, once, summarise
from angularkd.studies.table import CAPTION, FORMS, RESULTS, cells, notes, parts, table_text

__all__ = [
    "CAPTION",
    "FORMS",
    "RESULTS",
    "Row",
    "Sample",
    "Study",
    "StudyReporter",
    "cells",
    "difference",
    "notes",
    "once",
    "parts",
    "read_lines",
    "run_study",
    "study_of",
    "summarise",
    "table_text",
]
