# laterfs: every target works as the first command after a clone, given Python 3.11 or newer with
# venv, git, make and a C compiler. Everything is installed into .venv, from hash-pinned locks.

SHELL := /bin/sh
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help setup demo cell sim mutants test cluster-test soak check check-format check-lint check-types check-imports check-proto \
	check-breaking check-generated bench proto format lock release-protocol clean

help: ## this list
	@awk -F ' *## *' '/^[a-z-]+:/ { split($$1, t, ":"); name = t[1] } \
		/##/ && name { printf "  make %-18s %s\n", name, $$2; name = "" }' $(MAKEFILE_LIST)

setup: $(STAMP) ## the virtual environment in .venv

$(STAMP): requirements-dev.lock pyproject.toml
	@echo "setting up .venv (a minute or two the first time)"
	$(BIN)/python -m pip --version >/dev/null 2>&1 || { python=$$(tools/find-python) && "$$python" -m venv --clear .venv; }
	$(PIP) install --require-hashes --no-deps -r requirements-dev.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# --- what people run ------------------------------------------------------------------------------

demo: $(STAMP) ## the story of 2002, told by a cell of real processes on real files
	@$(BIN)/python -m demo

cell: $(STAMP) ## a one-machine cell in the foreground, data under var/, until Ctrl-C (MOUNT=DIR mounts it)
	@$(BIN)/afsctl cell up --foreground --dir var $(if $(MOUNT),--mount "$(MOUNT)")

sim: $(STAMP) ## histories of a simulated cell: make sim SEED=… STEPS=… (a fresh seed, 1,000,000 steps)
	@$(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS))

mutants: $(STAMP) ## pitfalls put back for the simulator to find; the table goes to docs/mutants.md
	@$(BIN)/python -m tests.sim.mutants

bench: $(STAMP) ## the measurements, as tables of ratios, into bench/results/
	@$(BIN)/python -m bench

# --- what a change must pass ----------------------------------------------------------------------

# Tests run side by side: most of them wait for processes, clocks and disks of their own.
SIDE_BY_SIDE := --numprocesses $(or $(WORKERS),auto) --dist worksteal
test: $(STAMP) ## all tests that need no container engine, with branch coverage; cores must have 100 %
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not cluster" --ignore=tests/sim --cov --cov-report=term:skip-covered
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/sim
	@echo "branch coverage of the cores:"
	$(BIN)/python -m coverage report --include='*/core/*,afs/access/*' --fail-under=100

# One after the other: they share the cluster that they break.
cluster-test: $(STAMP) ## the cluster in containers, broken on purpose; brings an engine along where there is none
	tools/engine with $(BIN)/python -m pytest -m cluster tests/cluster

soak: $(STAMP) ## random work and faults on the cluster in containers: make soak MINUTES=… SEED=… (10, a fresh seed)
	@tools/engine with $(BIN)/python -m tests.cluster.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

check: check-format check-lint check-types check-imports check-proto check-breaking \
	check-generated ## format, lint, types, import contracts, protocol, generated code

check-format: $(STAMP)
	$(BIN)/ruff format --check .

check-lint: $(STAMP)
	$(BIN)/ruff check .

check-types: $(STAMP)
	$(BIN)/mypy

check-imports: $(STAMP)
	$(BIN)/lint-imports

check-proto: $(STAMP)
	$(BIN)/buf lint proto

# The protocol of the last release is an image that is checked in; before the first release there is none.
check-breaking: $(STAMP)
	@if [ -e proto/released.binpb ]; then \
		echo "$(BIN)/buf breaking proto --against proto/released.binpb"; \
		$(BIN)/buf breaking proto --against proto/released.binpb; \
	fi

check-generated: $(STAMP)
	$(BIN)/python -m tools.generate_protocol --check

# --- what a change may need -----------------------------------------------------------------------

format: $(STAMP) ## the sources formatted, and what lint can mend mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(STAMP) ## afs/v1 generated from proto/
	$(BIN)/python -m tools.generate_protocol

release-protocol: $(STAMP) ## proto/released.binpb: what check-breaking compares with from now on
	$(BIN)/buf build proto --exclude-source-info --output proto/released.binpb

# A locked version stays until its bound in pyproject.toml excludes it, or UPGRADE asks:
# make lock UPGRADE='--upgrade-package grpcio'
COMPILE := .venv-lock/bin/uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url \
	--python-version 3.11 $(UPGRADE)
lock: ## both locks made anew from pyproject.toml, hash-pinned
	python=$$(tools/find-python) && "$$python" -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip --disable-pip-version-check --quiet install uv
	$(COMPILE) --extra dev --output-file requirements-dev.lock pyproject.toml
	$(COMPILE) --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml
	printf "buf-bin\nhatchling\n" | $(COMPILE) --constraint requirements-dev.lock --output-file requirements-build.lock -
	rm -rf .venv-lock

clean: ## .venv and caches removed; var/, which holds a cell's data, stays
	rm -rf .venv .venv-lock .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf .coverage htmlcov dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
