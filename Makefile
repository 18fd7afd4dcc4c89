# Everything sets itself up: the only thing needed is Python 3.10 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO_OUT ?= out/demo
BENCH_ARGS ?=
WHEEL_ARGS ?=

# Bytecode is kept: tests start many processes, and each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint bench experiments docs tutorials wheel-test release-check clean

demo: $(VENV)/.installed
	$(BIN)/patchbank demo -O $(DEMO_OUT)

# Each process has a core for itself: threads of OpenMP that wait for one another would take most of the time.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

# execute the notebooks of docs/tutorials and store what they show
tutorials: $(VENV)/.installed-dev
	$(BIN)/python -m tools.tutorials

# WHEEL_ARGS=--bare downloads the dependencies, as a user does
wheel-test: $(VENV)/.installed-dev
	$(BIN)/python -m tools.wheel_check $(WHEEL_ARGS)

release-check: $(VENV)/.installed-dev
	$(BIN)/python -m tools.release_check

# the tables of measurements, from benchmarks/results
experiments: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.pages

# the documentation site, into out/site; a broken link or a missing docstring fails
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo 'open out/site/index.html, or for the search: $(BIN)/python -m http.server --directory out/site'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache
	find src -name '*.nb[ic]' -delete
