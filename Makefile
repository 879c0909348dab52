# make demo    set up .venv, train on real or rendered pictures, measure, search, write the pages
# make test    set up .venv, run the whole suite
# make check   format, lint, types, layers, fast tests
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Real data sets for tests and demo, if somebody has put or linked them there (git ignores the
# folder); everything works without.
CROSSCAM_DATA ?= $(wildcard data)
export CROSSCAM_DATA
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check setup clean

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "== installing crosscam and what it needs into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(VENV)/.ready

demo:
	@BIN=$(BIN) MAKE="$(MAKE)" bash demo.sh

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not slow and not data and not gpu'

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
