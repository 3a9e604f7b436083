# Everything lives in this folder: the virtual environment, caches and temporary files.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
DEMO_ROOT ?= demo-data
FUZZ_SECONDS ?= 600
export TMPDIR := $(shell mkdir -p .tmp && pwd)/.tmp
export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-lowest torture fuzz lint bench conformance conformance-recorded clean

demo: $(VENV)/demo.stamp
	$(BIN)/swarmlet-metrics --root $(DEMO_ROOT) demo

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest --cov --cov-report=term $(PYTEST_ARGS)

# With the oldest langchain-core; left out is what tests the integrations of today: their parsing, pages and texts,
# and the sockets that old HTTP clients leave open.
test-lowest: $(LOWEST)/test.stamp
	$(LOWEST)/bin/python -m pytest --ignore tests/test_openai_server.py --ignore tests/test_docs.py \
	  --deselect tests/test_demo.py::test_live_with_a_wrong_key \
	  -W ignore::pytest.PytestUnraisableExceptionWarning $(PYTEST_ARGS)

# Kills 500 processes in the middle of their work, then writes from 256 threads. It takes minutes.
torture: $(VENV)/test.stamp
	$(BIN)/python -m tests.torture kills $(KILL_ARGS)
	$(BIN)/python -m tests.torture crowd $(CROWD_ARGS)

lint: $(VENV)/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Finds inputs that readers of worker folders, or tools, don't answer well; those of earlier runs are in .fuzz.
fuzz: $(VENV)/fuzz.stamp
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_TARGETS)

bench: $(VENV)/conformance.stamp
	$(BIN)/python -m benchmarks --page docs/performance.md $(BENCH_ARGS)

conformance: $(VENV)/conformance.stamp
	$(BIN)/python -m langchain_swarmlet_metrics.testing.conformance --out docs/conformance.md

conformance-recorded: $(VENV)/conformance.stamp
	$(BIN)/python -m langchain_swarmlet_metrics.testing.conformance.recorded --out docs/conformance.md

$(VENV)/demo.stamp: EXTRAS := demo
$(VENV)/test.stamp: EXTRAS := test
$(VENV)/fuzz.stamp: EXTRAS := test,fuzz
$(VENV)/lint.stamp: EXTRAS := test,lint
$(VENV)/conformance.stamp: EXTRAS := conformance
$(VENV)/%.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(LOWEST)/test.stamp: pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --constraint tests/lowest.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(TMPDIR) $(DEMO_ROOT) .coverage .coverage.* .fuzz .hypothesis .mypy_cache .pytest_cache .ruff_cache
