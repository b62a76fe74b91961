# make quickstart   a virtual environment, the installation, and the main job
# make test         what tests need, then linters, types and all tests
# make test-fast    the same without the tests marked slow
# make test-cpus    comparing tests again, with the arithmetic of a processor without AVX
# make tables       writes the tables of README.md and results/ anew, from the records they are of
# make reference    writes docs/reference/ anew, from the code
# make browser      a Chromium for the tests of the report's page; without one they are skipped
# make docs         the documentation site in build/site; a broken link or anchor stops it
# make zoo          every architecture of docs/architectures.md; make test takes a quarter of them
# make long         what make test leaves out: a packaged model taught to call tools, converted, shipped
# make faults       kills, full disks, damaged files and the rest, for real; a table of what survived, and FAULTS=FILE
# make PYTHON=python3.12 ...   another Python
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
FAULTS = build/faults.json
PROPERTIES = $(wildcard tests/*/test_*_properties.py tests/*/*/test_*_properties.py)
COMPARING = tests/models/inference/test_loglikelihood.py tests/models/inference/test_tree_attention.py tests/models/test_language_model.py
PIP = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test test-fast test-cpus tables reference docs browser zoo long faults lint format

quickstart: $(VENV)/installed
	$(BIN)/harness run quickstart

test: lint browser
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not long and not faults"

test-fast: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not slow and not faults"

# Fewer instructions round otherwise: what holds on one processor alone fails here.
test-cpus: $(VENV)/installed-dev
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest -q -n 0 -m "not slow" $(COMPARING)

tables: $(VENV)/installed-dev
	$(BIN)/python benchmarks/tables.py

docs: $(VENV)/installed-dev
	$(BIN)/zensical build --strict --clean

reference: $(VENV)/installed-dev
	$(BIN)/python -m scripts.reference

browser: $(VENV)/installed-dev
	.ci/browser $(BIN)

zoo: $(VENV)/installed-dev
	HARNESS_ZOO=all $(BIN)/python -m pytest -n auto --maxprocesses 4 tests/zoo

long: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m long

faults: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m faults --faults-json $(FAULTS)
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --hypothesis-profile=faults $(PROPERTIES)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamps hold pip back until one of these files changes.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[dev]"
	touch $(VENV)/installed $@
