# Two commands on a fresh machine with Python 3.11 to 3.13 (with venv) and make: `make demo`, `make test`.
# Set-up lands in .venv and downloads from the package index that pip and uv are configured for;
# it needs no compiler.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test lint format long soak sim conformance fuzz bench-sandbox bench-attack lock release clean

VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# Tried in this order; `make PYTHON=/path/to/python3.12 setup` names one.
PYTHON := python3.13 python3.12 python3.11 python3
# Further arguments for pytest or the demo, as in `make test ARGS="-x -k certificate"`.
ARGS :=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_PYTHON_DOWNLOADS := never

# Wheels only. These two, which libp2p needs, are published as sources only; both are pure Python
# and are built with the pinned setuptools.
ONLY_WHEELS := --only-binary :all: --no-binary varint --no-binary python-baseconv

help:
	@echo 'make demo     the main job, end to end, on a local network of real processes'
	@echo 'make test     everything that CI runs: lint, types, layers, tests (12 minutes at most)'
	@echo 'make lint     the quick part of it: ruff, mypy, import-linter'
	@echo 'make format   let ruff rewrite what it can'
	@echo 'make long     the tests that take over a minute each'
	@echo 'make soak     half an hour of 8 nodes under load'
	@echo 'make sim      all scenarios in the simulator, 20 seeds each, twice (make sim SEEDS=100)'
	@echo 'make conformance, make fuzz, make bench-sandbox'
	@echo '              the sandbox against all of ONNX'"'"'s own tests, against mutated models'
	@echo '              (make fuzz SEED=7 SECONDS=600), and against the clock'
	@echo 'make bench-attack'
	@echo '              what hostile peers cost honest nodes, against a silent control'
	@echo 'make lock     write the pins in requirements/ anew (make lock UPGRADE=1: newest versions)'
	@echo 'make release  dist/: the wheel, and the requirements to install before it'
	@echo 'make setup    only the virtual environment in .venv'
	@echo 'make clean    remove everything that the others made'

# ---- set-up ----------------------------------------------------------------------------------

setup: $(VENV)/.stamp

FITS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

$(VENV)/.tools: requirements/build.txt
	@if ! { $(BIN)/python -c '$(FITS)' && $(BIN)/python -m pip --version; } >/dev/null 2>&1; then \
	    for python in $(PYTHON); do \
	        if "$$python" -c '$(FITS)' >/dev/null 2>&1; then \
	            echo "Setting up $(VENV) with $$("$$python" --version)"; \
	            "$$python" -m venv --clear $(VENV) || exit 1; \
	            break; \
	        fi; \
	    done; \
	    if [ ! -x $(BIN)/python ]; then \
	        echo 'No Python 3.11, 3.12 or 3.13 with venv was found (tried: $(PYTHON)).' >&2; \
	        echo 'Install one (on Debian or Ubuntu: python3 and python3-venv), or name it:' >&2; \
	        echo '    make PYTHON=/path/to/python3.12 $(or $(MAKECMDGOALS),setup)' >&2; \
	        exit 1; \
	    fi; \
	fi
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --only-binary :all: \
	    -r requirements/build.txt
	@touch $@

$(VENV)/.stamp: $(VENV)/.tools requirements/dev.txt pyproject.toml
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes --no-build-isolation \
	    $(ONLY_WHEELS) requirements/dev.txt
	@# trio-typing, which libp2p imports, brings stubs of a trio years old; mypy would prefer them to
	@# the types of trio itself.
	rm -rf $(VENV)/lib/python3*/site-packages/trio-stubs
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# ---- work ------------------------------------------------------------------------------------

demo: $(VENV)/.stamp
	$(BIN)/p2pfleet demo $(ARGS)

lint: $(VENV)/.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.stamp
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# First what only computes, as many at a time as there are cores; then what starts processes, listens
# and waits, one at a time. tests/conftest.py puts the quick folders first. pytest exits with 5 when
# ARGS choose no test of a half.
PURE := $(addprefix tests/,core properties spec conformance simulation)
test: lint
	@$(BIN)/python -m pytest -n auto --dist worksteal $(PURE) $(ARGS) || [ $$? -eq 5 ]
	$(BIN)/python -m pytest -m 'not long and not soak' $(addprefix --ignore=,$(PURE)) $(ARGS)

# pytest exits with 5 when no test carries the mark.
long soak: $(VENV)/.stamp
	@$(BIN)/python -m pytest -m $@ $(ARGS) || { \
	    status=$$?; [ $$status -eq 5 ] && echo 'No test is marked "$@" yet.' || exit $$status; }

# ---- the simulator -----------------------------------------------------------------------------

# Twice, under different orders of Python's sets, side by side: the traces must not differ in a
# single bit. Then two cells of the credibility table, in the full simulator.
SEEDS := 20
TRACES := build/sim

sim: $(VENV)/.stamp
	@mkdir -p $(TRACES)
	@rm -f $(TRACES)/1.txt $(TRACES)/2.txt
	@PYTHONHASHSEED=2 $(BIN)/p2pfleet sim all --seeds $(SEEDS) --traces $(TRACES)/2.txt $(ARGS) \
	    >$(TRACES)/2.log 2>&1 & second=$$!; \
	PYTHONHASHSEED=1 $(BIN)/p2pfleet sim all --seeds $(SEEDS) --traces $(TRACES)/1.txt $(ARGS); \
	first=$$?; wait $$second && test $$first -eq 0
	@cmp $(TRACES)/1.txt $(TRACES)/2.txt && \
	    echo 'The trace hashes under PYTHONHASHSEED=1 and PYTHONHASHSEED=2 are equal.'
	$(BIN)/p2pfleet sim --table credibility --check

# ---- the sandbox -----------------------------------------------------------------------------

# Each writes its result, with the machine that it was measured on, to tests/bench/results.
RESULTS := tests/bench/results
SEED := 0
SECONDS := 60

conformance: $(VENV)/.stamp
	$(BIN)/python -m tests.conformance --output $(RESULTS)/conformance.json $(ARGS)

# make fuzz ARGS="--only 1234" runs one mutant of the seed again.
fuzz: $(VENV)/.stamp
	$(BIN)/python -m tests.fuzz --seed $(SEED) --seconds $(SECONDS) \
	    $(if $(findstring --only,$(ARGS)),,--output $(RESULTS)/fuzz.json) $(ARGS)

bench-sandbox: $(VENV)/.stamp
	$(BIN)/python tests/bench/sandbox.py --output $(RESULTS)/sandbox.json $(ARGS)

bench-attack: $(VENV)/.stamp
	$(BIN)/python -m tests.bench.attack --nodes 4 --units 120 --rows 128 --pairs 1 \
	    --output $(RESULTS)/attack.json $(ARGS)

# ---- release ---------------------------------------------------------------------------------

# No index and no host in these files: a pin is a version and its hashes, wherever it comes from.
# One version of a package for every Python ("fewest"): results are compared byte for byte.
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
    --generate-hashes --no-emit-index-url --no-header $(if $(UPGRADE),--upgrade)

lock: $(VENV)/.tools
	$(COMPILE) pyproject.toml -o requirements/release.txt
	$(COMPILE) --group build -o requirements/build.txt
	$(COMPILE) pyproject.toml --group dev -c requirements/release.txt -c requirements/build.txt \
	    -o requirements/dev.txt

# A wheel cannot carry uv's override of fastecdsa, so the pins travel beside it.
release: $(VENV)/.stamp
	rm -rf dist
	$(BIN)/python -m hatchling build --target wheel
	cp requirements/release.txt dist/requirements.txt
	@echo 'To install: pip install --no-deps -r requirements.txt && pip install --no-deps p2pfleet-*.whl'

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
	    .cache/interop-js
	find $(wildcard p2pfleet tests testnet protocol) -name __pycache__ -type d -prune -exec rm -rf {} +
