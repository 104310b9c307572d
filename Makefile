# Everything runs in .venv, which `setup` builds from constraints.txt; the other targets call it by themselves.
# Paths are relative, so that a folder with spaces in its name is no trouble.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin

.PHONY: help setup demo fast test slow check docs wheel bench bench-gpu clean

help:
	@echo "make demo   baselines, training and comparison on shipped data, in two minutes"
	@echo "make fast   the quick tests, in a minute          make test   the test suite"
	@echo "make slow   the tests of many minutes             make check  linter, formatter, types, imports"
	@echo "make docs   write docs/help.md and docs/options.md    make wheel  build dist/*.whl"
	@echo "make bench  the benchmarks, in hours              make bench-gpu  those that need a CUDA GPU"
	@echo "make clean  remove what the others made"

setup: .venv/ready

.venv/ready: pyproject.toml $(CONSTRAINTS)
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/lensmith demo

fast: setup
	$(BIN)/python -m pytest -m "not slow and not long"

test: setup
	$(BIN)/python -m pytest -m "not slow"

slow: setup
	$(BIN)/python -m pytest -m slow --numprocesses=0

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: setup
	$(BIN)/python dev/make_docs.py

wheel: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

bench: setup
	$(BIN)/python benchmarks/load.py
	$(BIN)/python benchmarks/branches.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/memory.py --stated 450m
	$(BIN)/python benchmarks/limit.py
	$(BIN)/python benchmarks/int8.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/mixing.py
	$(BIN)/python benchmarks/parity.py
	$(BIN)/python benchmarks/preparing.py
	$(BIN)/python benchmarks/starting.py
	$(BIN)/python benchmarks/odd_files.py
	$(BIN)/python benchmarks/probe.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/curve.py
	$(BIN)/python benchmarks/suspects.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/check.py copies shortcuts fashion pairs

# Needs a CUDA GPU, and so is no part of `bench`.
bench-gpu: setup
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf .venv runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
