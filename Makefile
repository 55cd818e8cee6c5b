# Each command sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Tests start processes by the dozen: each would compile all of metriclab anew where the environment forbids to keep that.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run quick test slow plugins lint types fmt docs bench clean

run: .venv/installed
	$(BIN)/metriclab run recipes/simclr.toml

# The inner loop: one process, no test that would start another, and of each component its own tests without the kit;
# of formulas those on random rows, not on equal or zero ones.
NOT_QUICK := kit or keeps or run or whatever or anywhere or lower_precision or rank or equally or slot_by_slot or identical or zero

quick: .venv/installed-test
	$(BIN)/python -m pytest --no-processes --ignore-glob="*_pml*" -k "not ($(NOT_QUICK))" \
		$(addprefix tests/,core losses miners memories ranking) \
		$(addprefix tests/test_,samplers.py schedules.py optimizers.py heads.py)

test: .venv/installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal

slow: .venv/installed-test
	$(BIN)/python -m pytest -m slow -n auto --dist worksteal --durations=10

plugins: .venv/installed-dev
	$(BIN)/python -m tests.check_plugins

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/installed-dev
	$(BIN)/mypy metriclab

fmt: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/installed-test
	$(BIN)/python docs/generate.py

bench: .venv/installed
	$(INSTALL) -e ".[bench]"
	$(BIN)/python benchmarks/nt_xent.py
	$(BIN)/python benchmarks/xbm_step.py
	$(BIN)/python benchmarks/loss_memory.py
	$(BIN)/python benchmarks/retrieval.py
	$(BIN)/python benchmarks/views.py
	$(BIN)/python benchmarks/first_step.py
	$(BIN)/python benchmarks/simclr.py
	$(BIN)/python benchmarks/equal_time.py
	$(BIN)/python benchmarks/chunked.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/ranks.py

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("metriclab needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e .
	touch $@

.venv/installed-test: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e ".[test]"
	touch .venv/installed $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e ".[test,dev]"
	touch .venv/installed .venv/installed-test $@
