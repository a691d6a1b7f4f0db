"""`python -m angularkd` is the command line."""

from angularkd.cli import main

main()
