# Everything runs in .venv, which the first target to need it sets up. `make help` lists the targets.
#   PYTHON=python3.12   another interpreter (3.10 or newer)
#   PIP_FLAGS="..."     more options for pip, such as --find-links FOLDER or --no-index
#   VENV=folder         another place for the virtual environment
#   PYTEST_FLAGS="..."  more options for pytest, such as -k name

OLDEST := 3.10
VENV ?= .venv
NEW_ENOUGH := import sys; sys.exit(sys.version_info < tuple(map(int, "$(OLDEST)".split("."))))
# The first on the path that is new enough; plain python3 stays the last word, for the error below.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && { echo $$python; exit; }; done; echo python3)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt $(PIP_FLAGS)
# Two test processes share the cores: one computing thread each is faster than two fighting.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_FLAGS)
SOURCES := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-all onnx-cases lint bench constraints clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: $(VENV)/.for-use ## the whole job on a small model that the project ships
	$(BIN)/onnxqat demo

test: $(VENV)/.for-development ## the tests, without the slow ones
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.for-development ## all tests
	$(PYTEST)

onnx-cases: $(VENV)/.for-development ## fetch the node tests of an older ONNX, which `test` then runs
	$(BIN)/python tools/fetch_onnx_cases.py

lint: $(VENV)/.for-development ## style, types and layer contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tools
	$(BIN)/lint-imports

bench: $(VENV)/.for-development ## `quantize` and placement against other tools
	$(BIN)/python tools/bench_quantize.py
	$(BIN)/python tools/bench_placement.py

constraints: ## resolve constraints.txt anew: make constraints PYTHONS="python3.10 python3.13"
	$(PYTHON) tools/pin_constraints.py $(PYTHONS)

clean: ## remove the virtual environment, the caches and the results
	rm -rf $(VENV) build dist out onnxqat-out .pytest_cache .hypothesis .mypy_cache .ruff_cache \
		.import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo >&2 \
		"onnxqat needs Python $(OLDEST) or newer, and $(PYTHON) is not. Name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; } # never leave half of one

$(VENV)/.for-use: $(SOURCES) | $(BIN)/python
	@echo "Installing onnxqat and what it needs into $(VENV) (once)"
	$(PIP) --editable '.[cpu,rtx,report,vision]'
	@touch $@

$(VENV)/.for-development: $(VENV)/.for-use
	$(PIP) --editable '.[cpu,rtx,report,vision,dev]'
	@touch $@
