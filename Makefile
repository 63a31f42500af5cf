PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.sigprop-stamp

.PHONY: setup report test test-all lint bench table

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[neural-tangents,dev]"
	$(BIN)/pip install --quiet -c constraints.txt --no-deps neural-tangents
	touch $(STAMP)

report: setup
	$(BIN)/python scripts/main_report.py

test: setup
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow" --durations 60

test-all: setup
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: setup
	$(BIN)/ruff check sigprop tests scripts
	$(BIN)/pyright --pythonpath $(BIN)/python sigprop
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python scripts/bench/depth.py
	$(BIN)/python scripts/bench/kernels.py --readme
	$(BIN)/python scripts/bench/empirical.py
	$(BIN)/python scripts/bench/gram.py

table: setup
	$(BIN)/python scripts/zoo_table.py --readme
	$(BIN)/python scripts/theory_table.py --readme
	$(BIN)/python scripts/regression_table.py --readme
