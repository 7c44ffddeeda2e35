# `make demo`, `make test` and `make check` build .venv when it is missing or out of date.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
TESTS ?= tests

.PHONY: demo test test-all check wheel docs tables format lock clean

demo: $(READY)
	$(BIN)/python -m experiments.digits

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --quick-compiler -m "not slow" $(TESTS)

# With what is marked slow (docs/testing.md), and all compiled as a user's program is.
test-all: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(TESTS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m experiments._tables --check
	$(BIN)/python -m pytest --doctest-modules jaxgen

# The wheel in an environment of its own: the README's example runs and type-checks there.
wheel: $(READY)
	.ci/wheel $(abspath $(BIN)/python)

# The pages of docs/ with the API from the docstrings, in docs/_build/html; a warning is an error.
docs: $(READY)
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

# Tables in README.md and docs/ from experiments/results/*.json.
tables: $(READY)
	$(BIN)/python -m experiments._tables

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxgen needs Python 3.11 or later; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --no-deps -e .
	@touch $@

# The lock names versions and hashes for every supported Python, and no host.
lock: $(READY)
	$(BIN)/python -m pip install uv
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --extra test \
	  --no-emit-index-url --no-header --upgrade pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV)
