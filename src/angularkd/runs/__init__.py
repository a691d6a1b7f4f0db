"""A run on disk: the names of its files, reading and writing them, what makes two runs the same, what a student says of itself."""

from angularkd.runs.folder import STUDENT_FILE, Run, RunFolder
from angularkd.runs.identity import check_identity, check_unchanged, identity_of
from angularkd.runs.metadata import Description, StudentMetadata, parse_description

__all__ = [
    "STUDENT_FILE",
    "Description",
    "Run",
    "RunFolder",
    "StudentMetadata",
    "check_identity",
    "check_unchanged",
    "identity_of",
    "parse_description",
]
