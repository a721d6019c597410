"""`python -m autoseg`: the command line without an installed script."""

from autoseg.cli.main import run

run()
