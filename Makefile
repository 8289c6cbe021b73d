.DELETE_ON_ERROR:
PY   ?= python3
VENV ?= .venv
BIN  := $(VENV)/bin

$(VENV)/.installed-%: pyproject.toml
	@$(PY) -c 'import sys; sys.exit("Python 3.11+ needed, found "+sys.version.split()[0]) if sys.version_info < (3,11) else None'
	@test -x $(BIN)/python || $(PY) -m venv --without-pip $(VENV)
	@$(PY) -m pip -q --disable-pip-version-check --python $(BIN)/python install -e '.[$*]'
	@touch $@

test: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest -q
.PHONY: test
