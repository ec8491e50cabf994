# Every target sets up what it needs on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
OUT ?= demo-out
STEPS ?=

.PHONY: help install demo test lint bench docs test-browser test-vllm test-ray clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/'

# The stamp carries the state of the project file: a changed dependency installs again.
$(VENV)/.installed: pyproject.toml tests/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --upgrade pip 'setuptools>=77'
	$(PIP_INSTALL) --constraint tests/constraints.txt --editable '.[dev]'
	touch $@

install: $(VENV)/.installed ## make the virtual environment with everything

demo: $(VENV)/.installed ## the whole path on the sample corpus: annotate, audit, build-shards, verify, train
	$(BIN)/tagmoe demo --out $(OUT) $(if $(STEPS),--steps $(STEPS))

test: $(VENV)/.installed ## the test suite (real CPU training, real torchrun ranks, no network)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile tests

lint: $(VENV)/.installed ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: $(VENV)/.installed ## every benchmark side by side with its peer; writes benchmarks/RESULTS.md
	$(BIN)/python benchmarks/run_all.py

docs: $(VENV)/.installed ## write docs/cli.md from the commands' own help
	$(BIN)/python docs/make_cli_reference.py

clean: ## remove what demo and tests made
	rm -rf $(OUT) build dist .pytest_cache .ruff_cache .hypothesis
