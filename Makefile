# `make help` lists what there is. The first call of anything sets up .venv; later calls install nothing again.
PYTHON ?= python3
# Where pip finds no CPU build of torch by itself: the CPU index that PyTorch's install page names.
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed

.DEFAULT_GOAL := help
.PHONY: help demo test check bench chaos lock clean

help:  ## list these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(RUNTIME)  ## write copy for the whole example catalogue with a real language model, and count what it made
	$(BIN)/nightmill run examples/product-copy.yaml --out out/demo
	$(BIN)/python examples/quality.py out/demo/results.jsonl

test: $(DEV)  ## every test that needs no GPU, on real Redis, PostgreSQL, S3 over HTTP and Ray
	$(BIN)/python -m pytest tests --cov --cov-report=term
check: $(DEV)  ## format, lint, types, import rules, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit -q

bench: $(DEV)  ## the benchmarks, side by side; figures go to benchmarks/results
	$(BIN)/python -m benchmarks.planning
	$(BIN)/python -m benchmarks.echo
	$(BIN)/python -m benchmarks.text

chaos: $(DEV)  ## the fault matrix
	$(BIN)/python -m pytest tests/chaos

lock: $(DEV)  ## make the lock files again from requirements/*.in
	$(BIN)/python -m pip install --quiet uv
	cd requirements && ../$(BIN)/uv pip compile --quiet --python-version 3.11 --no-annotate --no-emit-index-url --no-emit-find-links --override overrides.txt cpu.in -o cpu.lock
	cd requirements && ../$(BIN)/uv pip compile --quiet --python-version 3.11 --no-annotate --no-emit-index-url --no-emit-find-links --override overrides.txt cpu.in dev.in -o all.tmp && grep -vxFf cpu.lock all.tmp > dev.lock; rm -f all.tmp

clean:  ## remove what was installed and made here
	rm -rf $(VENV) out .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Nightmill needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# --no-deps: the lock is complete, and some packages ask for others that break beside a CPU build of torch.
$(RUNTIME): requirements/cpu.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing Nightmill into $(VENV): about two minutes, once"
	$(PIP) --no-compile -r requirements/cpu.lock
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.lock $(RUNTIME)
	@echo "installing the tools for tests and checks"
	$(PIP) --no-compile -r requirements/dev.lock
	@touch $@
