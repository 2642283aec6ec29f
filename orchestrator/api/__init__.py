"""The HTTP API: thin routes over `orchestrator.jobs` and `orchestrator.results`. Imports neither torch nor ray."""
