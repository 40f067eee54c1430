# Needs only make and Python 3.11 or newer; everything else goes into .venv, at the versions of constraints.txt.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON3 ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= auto
ARGS ?=

# The root of the tree on sys.path would shadow Hugging Face's `kernels` package.
export PYTHONSAFEPATH := 1
export HF_HUB_OFFLINE := 1
export OMP_NUM_THREADS := 1

# Tests that share a costly run, such as the interpreted kernels, are marked to stay in one worker.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

.PHONY: help setup demo test slow check fix zoo zoo-packages fuzz bench docs clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(STAMP) ## Create .venv and install the package with everything the other targets need

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "graphopt needs Python 3.11 or newer, found " + sys.version.split()[0] + "; run: make PYTHON3=/path/to/python3.11 setup")'
	@test -x $(BIN)/python || $(PYTHON3) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## Train a small model, optimise it end to end and show what came out
	$(BIN)/graphopt demo $(ARGS)

test: $(STAMP) ## Run the tests, without the slow ones
	$(PYTEST) -m 'not slow' $(ARGS)

slow: $(STAMP) ## Run the slow tests
	$(PYTEST) -m slow $(ARGS)

check: $(STAMP) ## Lint, format, types and floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy graphopt
	$(BIN)/lint-imports

fix: $(STAMP) ## Let ruff repair and format what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

zoo-packages: $(STAMP) ## Install the packages of others that the zoo builds models of
	$(BIN)/python -m pip install --quiet --no-deps -r tests/zoo/packages.txt

zoo: $(STAMP) ## Prune and prove every architecture; one table in docs/zoo.md (with ARGS="--only ...": lines alone)
	PYTHONPATH=tests $(BIN)/python tests/zoo/run.py $(if $(findstring --only,$(ARGS)),,--out docs/zoo.md) $(ARGS)

fuzz: $(STAMP) ## Run the property tests with many more examples
	HYPOTHESIS_PROFILE=fuzz $(PYTEST) -m hypothesis $(ARGS)

bench: $(STAMP) ## Compare with other libraries; prints ratios of interleaved medians
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	$(BIN)/python benchmarks/run.py $(ARGS)

docs: $(STAMP) ## Run every example of the documentation
	$(PYTEST) tests/docs $(ARGS)

clean: ## Remove caches and outputs; leaves .venv
	rm -rf out build dist site .demo_cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	find graphopt passes kernels exporters tests -name __pycache__ -type d -prune -exec rm -rf {} +
