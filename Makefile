# Everything runs in $(VENV), which make creates with Python 3.11+, pip and nothing else.
# requirements.lock fixes every version; its hashes are for `pip install --require-hashes -r`.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PY     ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Tests start hundreds of processes, each of which would compile all of our sources anew.
PYTEST := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q
PIP    := $(PY) -m pip -qq --disable-pip-version-check --python $(BIN)/python
QUICK  := "not slow and not oracle and not postgres"
LOCKED := cli demo dp gpu postgres s3 server sim viz bench dev mutation
UV     := $(shell command -v uv 2>/dev/null)

ifeq ($(UV),)
INSTALL := $(PIP) install
else
INSTALL := $(UV) pip install -q --python $(BIN)/python
endif

$(BIN)/python:
	@$(PY) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "fedcore needs Python 3.11 or newer, and $(PY) is " + sys.version.split()[0] + ". Name another: make PY=/path/to/python3.11")'
	@$(PY) -m venv --without-pip $(VENV)

# One stamp an extra. The hashes are cut off because pip refuses them beside an editable install.
$(VENV)/.installed-%: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing fedcore-fl[$*] into $(VENV): about a minute the first time"
	@sed -n 's/^\([^ #].*==.*[^ ]\) *\\$$/\1/p' requirements.lock > $(VENV)/constraints.txt
	@$(INSTALL) -c $(VENV)/constraints.txt -e '.[$*]'
	@touch $@

.PHONY: help
help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "make %-13s %s\n", $$1, $$2}'

.PHONY: test
test: $(VENV)/.installed-dev ## quick tests and doctests, in parallel
	@$(PYTEST) -n auto --dist worksteal -m $(QUICK)

.PHONY: test-all
test-all: $(VENV)/.installed-dev ## every test, with many more random examples (installs Ray, atheris)
	@$(BIN)/python -c 'import ray' 2>/dev/null || \
	  $(PIP) install -c $(VENV)/constraints.txt --no-build-isolation -e '.[ray]' || \
	  echo "Ray was not found: what needs it is skipped"
	@$(ATHERIS) || echo "atheris was not found: the campaigns of fuzzing are skipped"
	@$(PYTEST) -n auto --dist worksteal --hypothesis-profile=thorough --timeout=600

REPEATS ?= 50
.PHONY: repeat
repeat: $(VENV)/.installed-dev ## quick tests again and again, each time by another seed (REPEATS=50, SEED=n)
	@first=$(or $(SEED),$$(date +%s)); for seed in $$(seq $$first $$((first + $(REPEATS) - 1))); do \
	  echo "seed $$seed"; \
	  $(PYTEST) -n auto --dist worksteal -m $(QUICK) -p tests.shuffled \
	    --hypothesis-profile=repeated --hypothesis-seed=$$seed || \
	    { echo "Again: make repeat REPEATS=1 SEED=$$seed"; exit 1; }; \
	done

.PHONY: coverage
coverage: $(VENV)/.installed-dev ## which lines and branches the quick tests reach: build/coverage
	@mkdir -p build/coverage
	@$(BIN)/coverage erase
	@OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -q \
	  -n auto --dist worksteal -m $(QUICK) --timeout=600
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage json -q -o build/coverage/coverage.json
	@$(BIN)/python -m tests.covered build/coverage/coverage.json

MUTANTS ?= 300
PARTS ?= rounds arithmetic secagg clipping noise mechanisms accounting plan ledger audit commands
.PHONY: mutation
mutation: $(VENV)/.installed-mutation ## how many small defects the tests see (MUTANTS=300 a part, SEED=1; hours)
	@for part in $(PARTS); do \
	  OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.mutation $$part $(MUTANTS) $(or $(SEED),1) || exit 1; \
	done

# Root may install the server; anybody else is told what is missing.
.PHONY: test-postgres
test-postgres: $(VENV)/.installed-dev ## what runs on PostgreSQL (as root, installs Debian's)
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	  { test "$$(id -u)" = 0 && apt-get install -qq -y postgresql >/dev/null; } || \
	  { echo "PostgreSQL's server was not found. Install it: apt-get install postgresql"; exit 1; }
	@$(PYTEST) -m postgres tests/server tests/chaos tests/deployed tests/docs

# It has wheels for Linux; built from its sources it needs a Clang of its own.
ATHERIS = $(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) install -c $(VENV)/constraints.txt \
  --no-build-isolation --only-binary atheris -e '.[fuzz]'
FUZZ_RUNS ?= 1000000
.PHONY: fuzz
fuzz: $(VENV)/.installed-dev ## give parsers and services 10^6 inputs (FUZZ_RUNS=1000000; installs atheris)
	@$(ATHERIS)
	@FUZZ_RUNS=$(FUZZ_RUNS) $(PYTEST) -n auto --dist worksteal tests/fuzz

KILLS ?= 1000
.PHONY: chaos
chaos: $(VENV)/.installed-dev ## kill processes and part networks for an hour or more (KILLS=1000, SEED=n)
	@CHAOS_KILLS=$(KILLS) $(if $(SEED),CHAOS_SEED=$(SEED)) $(PYTEST) -m chaos tests/chaos

.PHONY: test-oracle
test-oracle: $(VENV)/.installed-dev ## compare with PyTorch (installs its CPU build)
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) install --no-build-isolation -e '.[oracle]' || \
	  { echo "The CPU build of PyTorch 2.13.0 was not found. Point pip at it: PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL"; exit 1; }
	@$(PYTEST) -m oracle

.PHONY: lint
lint: $(VENV)/.installed-dev ## style, types and import directions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/buf lint protos

.PHONY: format
format: $(VENV)/.installed-dev ## rewrite the sources in the house format
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

.PHONY: bench
bench: $(VENV)/.installed-bench ## run every benchmark, rewrite benchmarks/README.md
	@$(BIN)/python -m benchmarks run --all --write

.PHONY: demo
demo: $(VENV)/.installed-demo ## a private federation of 15 processes on handwritten digits
	@$(BIN)/python examples/federated_digits.py

$(VENV)-protos/.installed: Makefile
	@$(PY) -m venv --without-pip $(VENV)-protos
	@$(PY) -m pip -qq --disable-pip-version-check --python $(VENV)-protos/bin/python install \
	  grpcio-tools==1.78.0 mypy-protobuf==5.1.0
	@touch $@

.PHONY: protos
protos: $(VENV)-protos/.installed ## generate fedcore/v1 from protos/ again
	@PATH="$(abspath $(VENV)-protos/bin):$$PATH" $(VENV)-protos/bin/python -m grpc_tools.protoc -I protos \
	  --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. protos/fedcore/v1/*.proto
	@rm -f fedcore/v1/common_pb2_grpc.py fedcore/v1/common_pb2_grpc.pyi

# Of all versions, what an image of the server is built with and what it holds.
COMPILE := uv pip compile --quiet --universal --generate-hashes --no-annotate --custom-compile-command "make lock"
.PHONY: lock
lock: ## resolve pyproject.toml again into requirements*.lock (needs uv)
	@$(COMPILE) --upgrade $(addprefix --extra ,$(LOCKED)) pyproject.toml -o requirements.lock
	@$(COMPILE) -c requirements.lock --extra server pyproject.toml -o requirements-server.lock
	@$(COMPILE) -c requirements.lock --extra postgres --extra s3 pyproject.toml -o requirements-cluster.lock
	@sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml | \
	  $(COMPILE) -c requirements.lock - -o requirements-build.lock

.PHONY: sbom
sbom: $(VENV)/.installed-dev ## what a server consists of, as CycloneDX: dist/fedcore-*.cdx.json
	@mkdir -p dist
	@for part in server cluster; do \
	  $(BIN)/python -W ignore::UserWarning -m cyclonedx_py requirements --pyproject pyproject.toml \
	    --output-reproducible --spec-version 1.6 --output-format JSON --validate \
	    -o dist/fedcore-$$part.cdx.json requirements-$$part.lock || exit 1; \
	done

.PHONY: clean
clean: ## remove the environment, builds and caches
	@rm -rf $(VENV) build dist htmlcov .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
