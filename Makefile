# Each target makes .venv where it is absent, installs what it needs when pyproject.toml or constraints.txt changed, and
# then does its job.

PYTHON ?= python3
PIP_FLAGS ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help:
	@echo "make demo    export, prove, score, benchmark and run a real model (build/demo)"
	@echo "make test    run the tests; ARGS='tests/runtime -k ner' chooses among them"
	@echo "make lint    ruff check, ruff format --check, mypy --strict"
	@echo "make clean   remove what was built; $(VENV) stays"
	@echo
	@echo "PYTHON=python3.12 makes $(VENV) with another Python (3.11 or newer)."

demo: export HF_HUB_OFFLINE := 1
demo: $(VENV)/.installed-demo
	$(BIN)/python -m edgeport_bench.demo $(ARGS)

test: export HF_HUB_OFFLINE := 1
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses auto $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
	find runtime exporter benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp's name ends in the extra: .installed-demo, .installed-dev. An interrupted `venv` has a python and no pip.
$(VENV)/.installed-%: pyproject.toml constraints.txt $(wildcard runtime/kernels/*.* runtime/kernels/*/*.[chp]*)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[$*]' ./runtime/kernels --constraint constraints.txt
	@touch $@
	@if [ $* = dev ]; then touch $(VENV)/.installed-demo; fi  # dev contains demo
