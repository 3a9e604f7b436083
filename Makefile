# Everything lives in this folder: the virtual environment, caches and temporary files.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_ROOT ?= demo-data
export TMPDIR := $(shell mkdir -p .tmp && pwd)/.tmp
export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint bench conformance conformance-recorded clean

demo: $(VENV)/demo.stamp
	$(BIN)/swarmlet-metrics --root $(DEMO_ROOT) demo

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest --cov --cov-report=term $(PYTEST_ARGS)

lint: $(VENV)/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/demo.stamp
	$(BIN)/python benchmarks/callbacks.py

conformance: $(VENV)/conformance.stamp
	$(BIN)/python -m langchain_swarmlet_metrics.testing.conformance --out docs/conformance.md

conformance-recorded: $(VENV)/conformance.stamp
	$(BIN)/python -m langchain_swarmlet_metrics.testing.conformance.recorded --out docs/conformance.md

$(VENV)/demo.stamp: EXTRAS := demo
$(VENV)/test.stamp: EXTRAS := test
$(VENV)/lint.stamp: EXTRAS := test,lint
$(VENV)/conformance.stamp: EXTRAS := conformance
$(VENV)/%.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) $(TMPDIR) $(DEMO_ROOT) .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
