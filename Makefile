# Two commands: `make quickstart` and `make test`. Both need Python 3.11 or newer, make, and the package index.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart demo test test-slow lint clean

quickstart: .venv/installed
	$(BIN)/dinoscope quickstart

demo: .venv/installed-demo
	$(BIN)/dinoscope demo

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dinoscope needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Say which: make PYTHON=python3.11 quickstart")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check --editable .
	touch $@

.venv/installed-demo: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[demo]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev,parquet]'
	touch $@

clean:
	rm -rf .venv
