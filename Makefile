# `make demo` and `make test` are all a newcomer needs; each prepares .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MPLBACKEND := Agg

.PHONY: demo test test-all lint wheel-smoke clean

# `make demo TORCH_BACKEND=cpu` takes torch's build for CPUs, without gigabytes of CUDA; empty: the index's own build.
TORCH_BACKEND ?=
PIP_INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt

$(VENV)/.ready: pyproject.toml constraints.txt CMakeLists.txt $(wildcard wsi_vmamba/*/native/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Preparing $(VENV), once; it takes some minutes. 1 of 4: pip"
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@echo "2 of 4: torch $(if $(TORCH_BACKEND),for $(TORCH_BACKEND),(with CUDA on Linux; on a machine without a GPU, TORCH_BACKEND=cpu spares gigabytes))"
ifeq ($(TORCH_BACKEND),)
	@$(PIP_INSTALL) torch
else
	@$(PIP_INSTALL) uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend $(TORCH_BACKEND) --constraints constraints.txt torch
endif
	@echo "3 of 4: the libraries and the tools of development"
	@$(PIP_INSTALL) --group dev
	@echo "4 of 4: compiling wsi-vmamba's kernels, one to three minutes"
	@$(PIP_INSTALL) --no-build-isolation -e .
	@touch $@

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
