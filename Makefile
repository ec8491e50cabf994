# Every target sets up what it needs on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
OUT ?= demo-out
STEPS ?=

.PHONY: help install demo test test-browser test-vllm test-s3 test-ray lint bench bench-env docs clean

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

# Each of these starts the real component; a run that collected nothing or skipped something fails.
test-browser: $(VENV)/.installed ## the audit page in a real headless Chromium
	bash tests/browser/setup.sh
	TAGMOE_BROWSER_TESTS=1 $(BIN)/python -m pytest -q -m browser tests/browser

# vLLM and Ray leave sockets to the garbage collector; at exit that must not turn a passed run into a failed one.
THEIR_SOCKETS := -W ignore::ResourceWarning -W ignore::pytest.PytestUnraisableExceptionWarning

test-vllm: ## a real vLLM (CPU build) in an environment of its own, about 8 GB: offline engine and HTTP server
	bash tests/real_vllm/setup.sh .venv-vllm
	.venv-vllm/bin/python -m pytest -q -m vllm $(THEIR_SOCKETS) -p no:cacheprovider tests/real_vllm

test-s3: ## shards over real object stores (S3, Google Cloud Storage), in an environment of its own
	test -x .venv-s3/bin/gcp-storage-emulator || ( \
		(test -x .venv-s3/bin/python || $(PYTHON) -m venv .venv-s3) && .venv-s3/bin/python -m pip install --quiet \
		--disable-pip-version-check 'setuptools>=77' pytest pytest-timeout s3fs 'moto[s3]' flask flask-cors gcsfs \
		gcp-storage-emulator --editable .)
	.venv-s3/bin/python -m pytest -q -p no:cacheprovider tests/real_s3

test-ray: ## a real local Ray cluster of two nodes, one of which is killed, in an environment of its own
	bash tests/real_ray/setup.sh .venv-ray
	.venv-ray/bin/python -m pytest -q -m ray $(THEIR_SOCKETS) -p no:cacheprovider tests/real_ray

lint: $(VENV)/.installed ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: $(VENV)/.installed ## every benchmark side by side with its peer; writes benchmarks/RESULTS.md
	$(BIN)/python benchmarks/run_all.py

bench-env: ## an environment of its own with the peers of the loader benchmark (torch, LitData, Megatron-Energon)
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check 'setuptools>=77' \
		--requirement benchmarks/requirements.txt --editable .

docs: $(VENV)/.installed ## write docs/cli.md from the commands' own help
	$(BIN)/python docs/make_cli_reference.py

clean: ## remove what demo and tests made
	rm -rf $(OUT) build dist .pytest_cache .ruff_cache .hypothesis
