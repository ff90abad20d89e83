# Every target makes its own environment from a bare Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEVICE ?= cpu
export OMP_NUM_THREADS ?= 1
# processes that share the tests: one a core; 0: make's own, with output as it comes
WORKERS ?= auto

.PHONY: train test lint bench bench-qp bench-device bench-constraints clean

train: $(VENV)/.test
	$(BIN)/python train.py

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.learners
	$(BIN)/python -m pytest benchmarks --benchmark-columns=min,median,rounds --benchmark-sort=name -s --device $(DEVICE)
	$(BIN)/python -m benchmarks.roofline --device $(DEVICE)
	$(BIN)/python -m benchmarks.argmax_throughput --device $(DEVICE)
	$(BIN)/python -m benchmarks.stacked --seeds 1 4 10 --device $(DEVICE)

bench-qp: $(VENV)/.bench
	$(BIN)/python -m benchmarks.qp
	$(BIN)/python -m benchmarks.qp --single
	$(BIN)/python -m benchmarks.qp --memory

# on a machine with a GPU: make bench-device OUT=FOLDER
bench-device:
	bash benchmarks/device.sh

bench-constraints: $(VENV)/.bench
	$(BIN)/python -m benchmarks.constraints.projection
	$(BIN)/python benchmarks/constraints/wrapper.py
	$(BIN)/python -m benchmarks.constraints.agent
	$(BIN)/python -m benchmarks.constraints.violations

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# torch goes first and pinned: the newest wheel may be a much larger build
$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# qpth asks for numpy 1 and works with 2: without its dependencies, which the others bring
$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python -m pip install --quiet --no-deps qpth==0.0.18
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
