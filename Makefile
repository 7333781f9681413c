# `make demo` and `make test` set everything up themselves; `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types floors unit results bench clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "jgraph needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

install: $(STAMP) ## a virtual environment with jgraph and its development tools

demo: $(STAMP) ## train five models on handwritten digits: table, plots, checkpoint, predictions
	$(BIN)/jgraph demo --out runs/demo

test: lint types floors unit ## everything that must pass

lint: $(STAMP) ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## types
	$(BIN)/mypy

floors: $(STAMP) ## the architecture's layers
	$(BIN)/lint-imports

unit: $(STAMP) ## tests and generated tables
	$(BIN)/python -m jgraph.results --check
	$(BIN)/python -m experiments.bench.kernels_page --check
	$(BIN)/python -m pytest -n $(WORKERS)

results: $(STAMP) ## regenerate the tables from experiments/results
	$(BIN)/python -m jgraph.results
	$(BIN)/python -m experiments.bench.kernels_page

bench: $(STAMP) ## aggregation and training speed beside PyG
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/jgraph bench aggregation

clean: ## remove the environment, caches and runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache runs build *.egg-info
