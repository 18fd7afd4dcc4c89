"""`python -m patchbank` is the command line."""

from patchbank.cli import main

main()
