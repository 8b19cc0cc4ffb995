# `make demo` and `make test` do everything on a fresh machine: they need python3 (3.11 or later) and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: demo test test-all check format clean

# The main job on a real video: make demo VIDEO=my.mp4 WEIGHTS=my.tflite
demo: $(STAMP)
	@$(BIN)/python scripts/demo.py $(if $(VIDEO),--video "$(VIDEO)") $(if $(WEIGHTS),--weights "$(WEIGHTS)")

# Linting, types, the import contract, and the tests that take seconds.
test: check
	$(BIN)/python -m pytest -m "not slow"

# And those that take minutes.
test-all: check
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Torch comes first and pinned: what follows then finds it there and pulls no larger build in.
$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard src/movinet/engines/native/*.[chi]*)
	$(PYTHON) scripts/check_python.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf .venv .demo build dist *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
