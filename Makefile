# Everything here sets itself up: a fresh machine needs Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= reports/00_demo
.DEFAULT_GOAL := help
.PHONY: help demo test long quick torture check format bench reports studies clean

help: ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## the main job: a report on real digits, under two minutes
	@$(BIN)/python analyses/00_demo/analysis.py --out $(OUT)

# One process per core, each with one thread: two threads each would wait for another.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test: $(STAMP) ## the tests, but for those that `make long` has
	$(PYTEST) -m 'not long' $(ARGS)

long: $(STAMP) ## the rest of the long tests, of which `make test` has a share
	$(PYTEST) -m long $(ARGS)

quick: $(STAMP) ## the tests that take less than ten seconds each
	$(PYTEST) -m 'not slow and not long' $(ARGS)

torture: $(STAMP) ## runs and studies killed at random moments; half an hour
	NTK_FED_KILLS=100 $(BIN)/python -m pytest -s tests/test_kill.py $(ARGS)
	NTK_FED_KILLS=50 $(BIN)/python -m pytest -s tests/test_sweep.py -k random_moments $(ARGS)

check: $(STAMP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP) ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## measure cost, beside other tools
	@for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

reports: $(STAMP) ## render every report again from its recorded rows
	@for rows in reports/*/rows; do \
	  folder=$$(dirname $$rows); own=analyses/$$(basename $$folder); \
	  if test ! -d $$rows; then continue; \
	  elif test -f $$own/measure.py; then $(BIN)/python $$own/analysis.py --render; \
	  else $(BIN)/ntk-fed report $$folder; fi || exit 1; done
	@$(BIN)/ntk-fed report reports

studies: $(STAMP) ## run every study again
	@for folder in analyses/*/; do \
	  $(BIN)/python $$folder/analysis.py --out reports/$$(basename $$folder) || exit 1; done
	@$(BIN)/ntk-fed report reports

clean: ## remove what make made
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
