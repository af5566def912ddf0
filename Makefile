# `make demo` and `make test` are all a newcomer needs; each prepares .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MPLBACKEND := Agg

.PHONY: demo test test-all lint wheel-smoke clean

$(VENV)/.ready: pyproject.toml constraints.txt CMakeLists.txt $(wildcard wsi_vmamba/*/native/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt --group dev
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e .
	touch $@

demo: $(VENV)/.ready
	$(BIN)/wsi-vmamba demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n auto --maxprocesses 8 -m "not slow and not gpu"

test-all: $(VENV)/.ready
	$(BIN)/python -m pytest -n auto --maxprocesses 8 -m "not gpu"

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel-smoke: $(VENV)/.ready
	bash .ci/wheel_smoke.sh

clean:
	rm -rf build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache
