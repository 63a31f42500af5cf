PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.sigprop-stamp

.PHONY: setup report test test-all lint bench table studies figures paper docs dist lowest

NAMES ?=

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
	$(BIN)/ruff check sigprop tests scripts notebooks paper_figures
	$(BIN)/pyright --pythonpath $(BIN)/python sigprop
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python scripts/bench/depth.py
	$(BIN)/python scripts/bench/kernels.py --readme
	$(BIN)/python scripts/bench/empirical.py --readme --skip jacobian "ours, jacobian" "neural-tangents, jacobian"
	$(BIN)/python scripts/bench/gram.py

studies: setup  # all studies at the quick preset: claims on the screen, numbers and figures in out/studies
	$(BIN)/sigprop study $(or $(NAMES),all) --out out/studies

figures: setup  # for print, from the numbers in paper_figures
	$(BIN)/sigprop figures $(NAMES)

paper: setup  # these numbers, computed anew: hours; taken up again where it was stopped
	for name in $(or $(NAMES),$(notdir $(wildcard paper_figures/*))); do $(BIN)/python paper_figures/$$name/run.py || exit 1; done

docs: setup  # the site in out/docs: README, docs, API, notebooks, executed; NAMES="edge_of_chaos ..." or NAMES=--text for some of them
	$(BIN)/python scripts/docs.py $(NAMES)

table: setup
	$(BIN)/python scripts/zoo_table.py --readme
	$(BIN)/python scripts/theory_table.py --readme
	$(BIN)/python scripts/regression_table.py --readme

dist: setup  # a wheel, tried in an environment that has nothing but it and what it needs
	rm -rf dist out/clean
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv out/clean
	out/clean/bin/pip install --quiet -c constraints.txt dist/sigprop-*.whl
	cd out && clean/bin/sigprop doctor

lowest:  # the lowest versions that pyproject.toml allows, on Python 3.11
	.ci/lowest $(or $(PYTHON_LOWEST),python3.11) out/lowest
