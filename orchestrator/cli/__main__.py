"""`python -m orchestrator.cli` is `nightmill`."""

from orchestrator.cli import main

main()
