# The five commands of a fresh checkout. `make help` lists them.
#
#   make demo PYTHON=python3.13    chooses the interpreter
#   make test ARGS="-k kill -x"    hands arguments to pytest
#   make test WORKERS=4            runs so many files of tests at once
#   make image BUILD="--network host"    hands arguments to podman build

PYTHON ?= $(shell .ci/python)
ARGS ?=
WORKERS ?= 2
IMAGE ?= agent.tar
BUILD ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input install -c constraints.txt
RULES := pyproject.toml constraints.txt
SOURCES := orchestrator sandbox

.DEFAULT_GOAL := help
.PHONY: help demo run test collect check lint types architecture dependencies bench soak mutations image clean

help:
	@echo "make demo    watch three agents work, end to end, and leave nothing behind"
	@echo "make run     install, then serve in the foreground"
	@echo "make test    install what the tests need, and run them all with branch coverage"
	@echo "make check   lint, format, types, architecture, dependencies"
	@echo "make bench   every bench, one JSON line a figure"
	@echo "make soak    kill agents and the supervisor KILLS=10000 times under load, check, print figures"
	@echo "make mutations  take out one mitigation at a time, and see its test fail"
	@echo "make image   build the image that agents run in with podman, pinned and checked, as agent.tar"
	@echo "make clean   remove the virtual environment and every cache"

demo: .venv/.runtime
	@$(BIN)/orchestrator demo

run: .venv/.runtime
	@exec $(BIN)/orchestrator serve

test: .venv/.test
	@.ci/packages
	@.ci/acp-agent
	@.ci/node-tools
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered $(ARGS)

# Once, before workers each rewrite the asserts of all tests for themselves. What a skip needs comes with `make test`.
collect: .venv/.check
	@CI= $(BIN)/python -m pytest --collect-only -qq >/dev/null

check: lint types architecture dependencies

lint: .venv/.check
	$(BIN)/ruff check --output-format concise .
	$(BIN)/ruff format --check .
	@# It takes files, not folders, and is slow: those without a word of what it looks for are left out.
	@# ASYNC124 (async without await) is the shape of callbacks that may be awaited; ASYNC300 is about asyncio, which
	@# TID251 bans, and would be one more walk through every file.
	grep -rlZE --include='*.py' '\b(async|await|trio)\b' $(SOURCES) tests | xargs -0 -n 30 -P $(WORKERS) \
		$(BIN)/flake8-async --startable-in-context-manager=run --disable=ASYNC9,ASYNC124,ASYNC300

types: .venv/.check
	$(BIN)/mypy $(SOURCES)
	@# The script bears the name of the package, so mypy must look at it apart.
	$(BIN)/mypy orchestrator.py

architecture: .venv/.check
	$(BIN)/lint-imports --no-logo

dependencies: .venv/.check
	$(BIN)/deptry .
	$(BIN)/python -m pip check

bench: .venv/.test
	@$(PIP) -e '.[test,bench]'
	@set -e; for script in bench/[!_]*.py; do [ -e "$$script" ] || continue; $(BIN)/python "$$script"; done

soak: .venv/.test
	@$(BIN)/python -m tests.faults.soak

mutations: .venv/.test
	@$(BIN)/python tests/mutations.py $(ARGS)

image:
	@sandbox/image/build $(IMAGE) $(BUILD)

clean:
	rm -rf .venv .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache \
	  .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "orchestrator needs Python 3.11 or newer (set PYTHON=/path/to/python3.11)" >&2; exit 1; }
	@.ci/venv $(PYTHON) .venv
	@touch $@

.venv/.runtime: .venv/.made $(RULES)
	@echo "installing the orchestrator into .venv"
	@$(PIP) -e .
	@touch $@

.venv/.test: .venv/.made $(RULES)
	@echo "installing the orchestrator and its tests into .venv"
	@$(PIP) -e '.[test]'
	@touch $@ .venv/.runtime

.venv/.check: .venv/.test
	@echo "installing the linters into .venv"
	@$(PIP) -e '.[test,check]'
	@touch $@
