# `make demo` and `make test` do everything on a fresh Debian or Ubuntu machine with Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test quick-test lint types clean

demo: .venv/installed
	$(BIN)/edgesearch optimize quickstart --trials 20 --home runs
	$(BIN)/edgesearch export --study quickstart --knee --home runs -o runs/deploy

# Tests of studies start workers, servers and browsers of their own and wait for them half of the time: two processes for each core.
# They find each module compiled, as users' processes do, whatever this shell is told.
test: .venv/installed-dev
	env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $$((2 * $$(nproc))) --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

quick-test: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_FLAGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/installed-dev
	.ci/types

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgesearch needs Python 3.11 or newer; try make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# torch comes first, alone: nothing else then pulls in another build of it.
.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) "setuptools>=77" torch torchvision
	$(INSTALL) -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) -e ".[dev]"
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
