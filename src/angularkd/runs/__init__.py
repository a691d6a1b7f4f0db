"""A run on disk: the names of its files, reading and writing them, what makes two runs the same, what a student says of itself."""

from angularkd.runs.folder import STUDENT_FILE, Run, RunFolder
from angularkd.runs.identity import check_identity, identity_of
from angularkd.runs.metadata import StudentMetadata

__all__ = ["STUDENT_FILE", "Run", "RunFolder", "StudentMetadata", "check_identity", "identity_of"]
