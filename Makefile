# Each target sets up what it needs first, once. `make help` lists them.
#
#   PYTHON       the Python (3.11 or newer) that the virtual environment is made with
#   TORCH_INDEX  an index with PyTorch's CPU build, for a machine whose pip does not find one
#   PROCESSES    how many processes tests run in, each with services of its own: as many as cores, 4 at most; 0 for none

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-images demo-data test check lint types unit bench chaos examples lock clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
export TORCH_INDEX
# Every process of a stack imports torch and more; without Python's cache of compiled modules each compiles them anew.
unexport PYTHONDONTWRITEBYTECODE
PROCESSES ?= $(shell nproc 2>/dev/null | awk '{print ($$1 > 4) ? 4 : $$1}')
# A process takes file after file, in the order of folders: what takes long is begun first.
TESTS := $(BIN)/pytest --numprocesses=$(or $(PROCESSES),1) --dist=loadfile --no-loadscope-reorder

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUNTIME)  ## Write copy for the whole example catalogue with a real language model, and count how good it is
	@$(BIN)/nightmill run examples/product-copy.yaml --out out/demo
	@$(BIN)/python examples/quality.py out/demo/results.jsonl

demo-images: $(RUNTIME)  ## Make 200 product pictures, by class and prompt, upscaled and styled, with a gallery
	@$(BIN)/nightmill run examples/product-images.yaml --out out/demo-images

demo-data: $(RUNTIME)  ## Fit a model to a table, draw 100,000 rows that keep rules, and write 500 dialogues; a report of each
	@examples/demo-data.sh out/demo-data

test: $(DEV)  ## Every test that needs no GPU, on real Redis, PostgreSQL, S3 over HTTP and Ray
	$(TESTS) --cov --cov-report=term tests

check: lint  ## Format, lint, types, import rules, unit tests
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target types unit

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(DEV)
	$(BIN)/mypy

unit: $(DEV)
	$(TESTS) -q tests/unit

bench: $(DEV)  ## Side-by-side benchmarks; writes benchmarks/results/
	$(BIN)/python -m benchmarks.planning
	$(BIN)/python -m benchmarks.echo
	$(BIN)/python -m benchmarks.size
	$(BIN)/python -m benchmarks.text
	$(BIN)/python -m benchmarks.images
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python -m benchmarks.duplicates
	$(BIN)/python -m benchmarks.checks_quality
	$(BIN)/python -m benchmarks.table_engines

# Leaves a JSON file a scenario in out/chaos; CHAOS="--resume" goes on with what has not passed yet.
chaos: $(DEV)  ## The fault matrix: every fault with many seeds, hours; CHAOS="kill-worker --seeds 2" runs a piece of it
	$(BIN)/python -m tests.chaos $(CHAOS)

examples: $(RUNTIME)  ## Write the catalogue's JSONL and Parquet copies from its CSV
	$(BIN)/python examples/build.py

lock: $(RUNTIME)  ## Make the lock files again from requirements/*.in
	requirements/lock.sh $(abspath $(BIN))/uv

clean:  ## Remove the virtual environment and what tests and demo left
	rm -rf $(VENV) out .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# Installed once: a stamp is older than its lock, or the project's metadata, only when they changed.
$(BIN)/python:
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Nightmill needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): requirements/cpu.lock requirements/install.sh pyproject.toml | $(BIN)/python
	@requirements/install.sh $(VENV) requirements/cpu.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.lock $(RUNTIME)
	@requirements/install.sh $(VENV) requirements/dev.lock
	@touch $@
