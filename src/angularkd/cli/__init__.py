"""The command line: parses, calls, prints; decides nothing."""

from angularkd.cli.parsing import parse
from angularkd.cli.running import COMMANDS, USAGE, main

__all__ = ["COMMANDS", "USAGE", "main", "parse"]
