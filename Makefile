# `make report` and `make test` work from a fresh clone: they install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup report audit audit-programs study-cards study-graphs test test-slow check docs verl-check bridge-check bench notebooks clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

report: setup
	$(BIN)/interp-kit report

audit: setup
	$(BIN)/interp-kit audit

audit-programs: setup
	$(BIN)/interp-kit audit --programs 100 --trained 20 --out reports/audit_programs.html

study-cards: setup
	$(BIN)/interp-kit study cards

study-graphs: setup
	$(BIN)/interp-kit study graphs

# the slow tests are proofs of minutes: `make test-slow` runs them, and so does CI
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST) -m 'not slow'

test-slow: setup
	$(PYTEST) -x -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python tools/english.py

# the site, strict and with its links checked, into reports/site; its tools have a small environment of their own
DOCS := .venv-docs
DOCS_TOOLS = $(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])'

docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "reports/site/index.html (with search: python3 -m http.server -d reports/site)"

$(DOCS)/.installed: pyproject.toml constraints.txt
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $$($(DOCS_TOOLS))
	@touch $@

# makes an environment for verl (several gigabytes); says what a CPU can show of the files for it
verl-check: setup
	PYTHONPATH=. $(BIN)/python tests/training/verl/check.py

# makes an environment for TransformerLens 4; its models, written there, must give the same logits here
bridge-check: setup
	PYTHONPATH=. $(BIN)/python tests/models/foreign/bridge4/check.py

bench: setup
	$(BIN)/python -m benchmarks

notebooks: setup
	$(BIN)/python notebooks/execute.py --write

# the pictures in README.md are figures of the reports
docs/audit.png: audit
	cp reports/audit_figures/figure_01.png $@

docs/audit_programs.png: audit-programs
	cp reports/audit_programs_figures/figure_01.png $@

docs/boolean_routes.png: report
	cp reports/boolean_figures/figure_02.png $@

clean:
	rm -rf $(VENV) $(DOCS) .venv-verl .venv-bridge build dist reports .pytest_cache .ruff_cache .hypothesis
