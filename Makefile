# `make demo` and `make test` are all a newcomer needs; each prepares .venv on first use. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MPLBACKEND := Agg
# Where it is set, each process compiles every file anew: a worker of `make test` takes 17 CPU seconds to begin, with bytecode 9.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all lint docs wheel-smoke release-notes clean help
.DEFAULT_GOAL := help

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

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## the whole product on a generated cohort, on the CPU, in minutes
	$(BIN)/wsi-vmamba demo

test: $(VENV)/.ready ## the tests, without the slow ones
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow and not gpu"

test-all: $(VENV)/.ready ## the tests, with the slow ones
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not gpu"

lint: $(VENV)/.ready ## formatter, linter, types and floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Strict: a broken link, a page that is missing or would load something over the network fails the build.
docs: $(VENV)/.docs-ready ## the documentation as a site that needs no network, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html; for the search: $(PYTHON) -m http.server --directory build/site"

$(VENV)/.docs-ready: $(VENV)/.ready
	@echo "Installing what builds the documentation, once"
	@$(PIP_INSTALL) --group docs
	@touch $@

wheel-smoke: $(VENV)/.ready ## build the wheel, install it alone and use it
	bash .ci/wheel_smoke.sh

release-notes: ## what CHANGELOG.md says of a version: make release-notes VERSION=0.1.0
	@$(PYTHON) .ci/release_notes.py $(VERSION)

clean: ## remove .venv and everything that was built
	rm -rf build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache
