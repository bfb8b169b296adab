# One command each. The environment is made on first use, by uv if it is there, else by venv and pip.

PYTHON ?= python3
comma  := ,
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Files of tests side by side, each process with a PostgreSQL of its own: the tests of whole clusters mostly wait. In the order of their
# names: whole clusters and the campaign first, so that no long file is left alone at the end.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

export UV_PYTHON_DOWNLOADS := never
# Without bytecode each new process spends seconds on importing pandas.
export UV_COMPILE_BYTECODE := 1

# $(call install,EXTRAS): put the project with these extras into the environment.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Protheon needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then \
	  set -e; \
	  test -x $(BIN)/python || uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); \
	  uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(1)]'; \
	else \
	  set -e; \
	  test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(1)]'; \
	fi
	@touch $@
endef

.PHONY: demo lab lint check test test-all fuzz chaos wheels gen bench bench-merge bench-ledger bench-telemetry compose-test seeds soak network clean help

help: ## these lines
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

demo: $(VENV)/.made-demo ## a whole cluster on this machine loads a sample, loses a worker on purpose, and loses no row
	@$(BIN)/protheon demo

lab: $(VENV)/.made-lab ## JupyterLab with copies of the notebooks, and a cluster that they use; Ctrl-C ends it; LAB_DIR= for another place of the copies
	@$(BIN)/protheon lab $(if $(LAB_DIR),--dir "$(LAB_DIR)")

lint: $(VENV)/.made-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint ## lint, types, arrows, unit tests: under a minute
	$(PYTEST) -q tests/unit tests/arch

test: lint ## all tests but the slow ones
	$(PYTEST) -q -m "not slow" $(PARALLEL)

test-all: lint ## every test, and many more examples of each property
	$(PYTEST) -q --hypothesis-profile=thorough $(PARALLEL)

MINUTES ?= 5
fuzz: $(VENV)/.made-fuzz ## damage archives and streams for MINUTES=; what it finds is kept in fuzz-found/
	$(BIN)/python -m tests.fuzz --seconds $$(($(MINUTES) * 60))

chaos: $(VENV)/.made-dev ## faults against a running cluster for MINUTES=, then a judge; SEED= has a campaign again, ONLY= some kinds of faults, DEFAULTS=1 the product's own leases
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only "$(ONLY)") $(if $(DEFAULTS),--defaults)

wheels: $(VENV)/.made-dev ## every runtime dependency has a wheel for Windows and macOS; asks the package index, needs uv
	$(BIN)/python tests/portability/wheels.py

gen: $(VENV)/.made-dev ## protobuf code anew from proto/
	$(BIN)/python proto/generate.py

bench: $(VENV)/.made-dev ## measure; BENCH_LINES= for a smaller sample
	$(BIN)/python benchmarks/bench.py

bench-merge: $(VENV)/.made-dev ## the merge's share of a chunk's time with 1, 2, 4 and 8 loaders
	$(BIN)/python -m benchmarks.merge_share

bench-ledger: $(VENV)/.made-dev ## claims and renewals with a million tasks in the ledger; BENCH_TASKS= and BENCH_SECONDS= for less
	$(BIN)/python -m benchmarks.ledger_load

bench-telemetry: $(VENV)/.made-dev ## CPU of telemetry: a scheduler with 500 workers, and a run; BENCH_WORKERS=, BENCH_SECONDS= and BENCH_LINES= for less
	$(BIN)/python -m benchmarks.telemetry_cost

compose-test: $(VENV)/.made-dev ## compose.yaml with a real engine: up, load, kill, scale, restart, verify, down; PROOF_LINES= for a smaller sample
	@tests/deploy/compose.sh

seeds: $(VENV)/.made-dev ## the seeds' table: 50, 500 and 1,000 tasks on 4, 8 and 16 worker processes; SEEDS=1 for the first alone
	$(BIN)/python -m benchmarks.seeds_table

soak: $(VENV)/.made-dev ## one hundred thousand small chunks: what broker and scheduler take at the end, against the beginning; SOAK_CHUNKS= for less
	$(BIN)/python -m benchmarks.soak

network: $(VENV)/.made-dev ## four hosts on a network with faults, as root on Linux: every case, and the table of recovery times for docs/reliability.md
	$(PYTEST) -q -s tests/network

clean: ## remove the environment and all caches; data directories stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .bench
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made-demo: pyproject.toml constraints.txt
	$(call install,embedded)

$(VENV)/.made-lab: pyproject.toml constraints.txt
	$(call install,embedded$(comma)lab)

$(VENV)/.made-dev: pyproject.toml constraints.txt
	$(call install,dev)

$(VENV)/.made-fuzz: pyproject.toml constraints.txt
	$(call install,dev$(comma)fuzz)
