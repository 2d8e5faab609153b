# Everything below makes its own environment first; every target is safe to run twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-fast test-slow test-faults faults check format smoke promises benchmark clean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(READY): requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@touch $(READY)

install: $(READY)  ## Make .venv with the locked dependencies, each compared with its hash

quickstart: $(READY)  ## Train SimCLR on handwritten digits, minutes on two CPU cores, nothing to download
	$(BIN)/python cli.py fit --config configs/quickstart.yaml

# A worker a core, four at most: a test may start two processes of its own.
WORKERS := --numprocesses auto --maxprocesses 4 --dist worksteal

test: $(READY)  ## All tests but the slow ones, under 10 minutes on two cores
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

test-fast: $(READY)  ## Neither slow tests nor several processes, under 4 minutes
	$(BIN)/python -m pytest $(WORKERS) -m "not slow and not ddp and not process"

test-slow: $(READY)  ## The slow tests alone
	$(BIN)/python -m pytest $(WORKERS) -m slow

test-faults: $(READY)  ## Bad flags, files, images, checkpoints: each answered as docs/faults.md says
	$(BIN)/python -m pytest $(WORKERS) tests/faults

faults: $(READY)  ## Write docs/faults.md anew, from what the commands say
	$(BIN)/python -m tests.faults.page

check: $(READY)  ## Lint, formatting, types, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/codespell

format: $(READY)  ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

CONFIG ?= configs/quickstart.yaml
smoke: $(READY)  ## One batch through CONFIG=configs/...yaml
	$(BIN)/python cli.py fit --config $(CONFIG) --trainer.fast_dev_run true

PROMISED := tests/test_distributed.py tests/test_resume.py tests/test_precision.py
promises: $(READY)  ## Train every method in all ways that are promised to be equal, into results/ and docs/numerics.md
	$(BIN)/python -m pytest $(WORKERS) --promises results/promises-cpu.json $(PROMISED)
	$(BIN)/python scripts/result_tables.py

benchmark: $(READY)  ## Measure speed and memory, lightly's beside ours, into results/
	$(BIN)/python scripts/benchmark/all.py

clean:  ## Remove the environment and caches, not your runs
	rm -rf $(VENV) .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './runs/*' -exec rm -rf {} +
