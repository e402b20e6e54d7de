# Everything runs in .venv. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The first Python that runs and is 3.11 or 3.12: the one of .venv where there is one (of uv, on a
# machine whose own is older), then those on the PATH: a version manager's stub may exist and not run.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for python in .venv/bin/python python3.11 python3.12 python3; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done || true)
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --retries 10 --timeout 120 -c constraints.txt
THREADS ?= $(shell getconf _NPROCESSORS_ONLN)
# Two processes take all that two cores have; a worker that is done takes over another's tests.
WORKERS ?= 2
PYTEST_ARGS ?=
QUICKSTART_ARGS ?=

.PHONY: help install quickstart test test-fast lint style docs format clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: .venv/.installed ## the tested versions of everything, in .venv

# The stamp is written last: an install that was cut off is taken up again by the next `make`.
.venv/.installed: pyproject.toml setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "error: found no Python 3.11 or 3.12; install one," \
		"or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c '$(SUPPORTED)' || { echo "error: $(PYTHON) is not Python 3.11 or 3.12:" \
		"name one that is, with PYTHON=/path/to/python" >&2; exit 2; }
	@$(BIN)/python -c '$(SUPPORTED)' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
# torch alone comes first: where another build of it is at hand, nothing else may choose.
	@for try in 1 2 3; do \
		$(PIP_INSTALL) "$$(grep -m 1 '^torch==' constraints.txt)" \
			&& $(PIP_INSTALL) -e '.[dev,docs,onnx]' && break; \
		echo "install: try $$try of 3 failed" >&2; \
		test $$try -lt 3 || exit 1; \
		sleep 5; \
	done
	@touch $@

# The topology is named so that no default of accelerate's, or of this account's, gets a say; its
# default number of threads is one.
quickstart: .venv/.installed ## train, evaluate and report a small model on synthetic weather
	$(BIN)/accelerate launch --config_file accelerate_configs/single_gpu.yaml \
		--num_cpu_threads_per_process $(THREADS) launch/train.py --config quickstart $(QUICKSTART_ARGS)

lint: style ## ruff, mypy, bandit; and pip-audit, which asks the network
	$(BIN)/python tests/dependency_audit.py

style: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy timerxl launch
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive timerxl launch

test: style ## ruff, mypy, bandit, then all tests, two at a time (WORKERS=2)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

# No processes, no browser, no builds: what is marked slow.
test-fast: .venv/.installed ## nine tests of ten: those that start no process
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m 'not slow' $(PYTEST_ARGS)

# A test builds the site as well. NO_MKDOCS_2_WARNING: no advertisement of a successor.
docs: .venv/.installed ## the documentation as a site, site/index.html; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: .venv/.installed ## let ruff sort imports and format
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and caches; runs/ stays
	rm -rf .venv build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
