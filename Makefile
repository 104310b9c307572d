# Everything runs in .venv, which `setup` builds from constraints.txt; the other targets call it by themselves.
# Paths are relative, so that a folder with spaces in its name is no trouble.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test check bench bench-gpu clean

help:
	@echo "make demo   baseline, training and comparison on shipped data, in a few minutes"
	@echo "make test   the test suite        make check  linter, formatter, types"
	@echo "make bench  the benchmarks        make clean  remove what the others made"
	@echo "make bench-gpu   those that need a CUDA GPU"

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/lensmith demo

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: setup
	$(BIN)/python benchmarks/branches.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/mixing.py
	$(BIN)/python benchmarks/parity.py
	$(BIN)/python benchmarks/preparing.py
	$(BIN)/python benchmarks/probe.py
	$(BIN)/python benchmarks/curve.py
	$(BIN)/python benchmarks/suspects.py
	$(BIN)/python benchmarks/sweep.py

# Needs a CUDA GPU, and so is no part of `bench`.
bench-gpu: setup
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf .venv runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
