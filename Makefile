# The project's only vocabulary; continuous integration calls the same targets.
#
#   VENV=.venv-other    another environment
#   PYTHON=python3.12   the interpreter to make it from (3.11 to 3.13)

VENV ?= .venv
PYTHON ?=
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
INTERPRETERS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python)
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# Small networks are bound by overhead, not arithmetic: one thread each, processes side by side.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: help setup format lint type test thorough slow soak check demo bench tables docs
.NOTPARALLEL:

help:
	@echo 'make setup    install into $(VENV); does nothing where that is up to date'
	@echo 'make demo     run scenarios/quickstart.yaml and print the comparison'
	@echo 'make test     run the fast tests, in minutes'
	@echo 'make thorough run the tests that take a second or more each'
	@echo 'make slow     run the learning tests'
	@echo 'make soak     kill, damage and confuse it in large numbers; takes hours'
	@echo 'make lint     check style and format; change nothing'
	@echo 'make format   put style and format right'
	@echo 'make type     check types'
	@echo 'make check    lint, type, test and thorough'
	@echo 'make tables   run what the published tables lack, write them, say what changed; may take hours'
	@echo 'make docs     build the documentation site in build/docs/site; needs no network'
	@echo 'make bench    measure the overhead over plain Stable-Baselines3, of methods, of a start'

setup: $(VENV)/.up-to-date

$(VENV)/.up-to-date: pyproject.toml constraints.txt | $(BIN)/python
ifdef UV
	"$(UV)" pip install --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[all]' --group dev --group docs
else
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'  # the first that knows --group
	$(BIN)/python -m pip install -c constraints.txt -e '.[all]' --group dev --group docs
endif
	@touch $@

# A link to an interpreter that is gone counts as missing; what is left of that venv is removed.
$(BIN)/python:
	@for python in $(INTERPRETERS); do \
	    "$$python" -c '$(SUPPORTED)' >/dev/null 2>&1 || continue; \
	    if [ -e '$(VENV)/pyvenv.cfg' ]; then rm -rf '$(VENV)'; fi; \
	    if [ -n '$(UV)' ]; then set -- '$(UV)' venv --python "$$python"; \
	    else set -- "$$python" -m venv; fi; \
	    "$$@" '$(VENV)' || { rm -rf '$(VENV)'; exit 1; }; \
	    exit 0; \
	done; \
	echo 'Holdfast needs Python 3.11, 3.12 or 3.13, and none of these is one: $(INTERPRETERS)' >&2; \
	echo 'Name yours: make setup PYTHON=/path/to/python3.12' >&2; \
	exit 1

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

type: setup
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	$(BIN)/mypy docs/docsite

test: setup
	$(ONE_THREAD) $(BIN)/pytest -m 'not slow and not thorough' -n 2 --dist worksteal

thorough: setup
	$(ONE_THREAD) $(BIN)/pytest -m 'thorough and not slow' -n 2 --dist worksteal

slow: setup
	HOLDFAST_SHIPPED=required $(ONE_THREAD) $(BIN)/pytest -m slow -n 2

# All of it takes hours; PARTS='kills --share 0.1' takes less.
soak: setup
	cd benchmarks && $(ONE_THREAD) "$(abspath $(BIN)/python)" -m soak $(PARTS)

check: lint type test thorough

demo: setup
	$(BIN)/holdfast run scenarios/quickstart.yaml --jobs 2

# Every warning is an error: a link or an anchor that leads nowhere, a name that is not there.
docs: setup
	cd docs && "$(abspath $(BIN)/python)" -m docsite

bench: setup
	$(ONE_THREAD) $(BIN)/python benchmarks/overhead.py
	$(ONE_THREAD) $(BIN)/python benchmarks/updates.py
	$(ONE_THREAD) $(BIN)/python benchmarks/starting.py

# ONLY=quickstart for one of them.
tables: setup
	cd benchmarks && $(ONE_THREAD) "$(abspath $(BIN)/python)" -m method_tables $(if $(ONLY),--only $(ONLY))
