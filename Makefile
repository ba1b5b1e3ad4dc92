PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

DEMO_OUT ?= out/demo
DEMO_OPTIONS ?=
DATA ?= $(FLOWVID_DATA)
REAL_SCALE ?= cpu
PYTEST_OPTIONS ?=
TEST_PROCESSES ?= 2

export OMP_NUM_THREADS ?= 2

# One resolution for everything, held to constraints.txt: an unconstrained torch could bring gigabytes of CUDA.
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo real test lint venv clean

help:
	@echo "make demo   install what flowvid needs and run its demo into $(DEMO_OUT)"
	@echo "make real   train on some of the clips in DATA/clips and fill in the rest: make real DATA=FOLDER"
	@echo "make test   install the development tools, then lint, check types and imports, and run the tests"
	@echo "make lint   the checks of 'make test' without the tests"
	@echo "make venv   only create $(VENV) with the development tools"
	@echo "make clean  remove $(VENV), caches and built packages; results in out/ stay"
	@echo "Options: PYTHON=$(PYTHON) VENV=$(VENV) DEMO_OUT=$(DEMO_OUT) DEMO_OPTIONS='...' REAL_SCALE=$(REAL_SCALE) PYTEST_OPTIONS='...'"

demo: $(VENV)/.stamp-run
	$(BIN)/flowvid demo --out $(DEMO_OUT) $(DEMO_OPTIONS)

real: $(VENV)/.stamp-dev
	@test -n "$(DATA)" || { echo "Name the folder that holds clips/: make real DATA=FOLDER"; exit 2; }
	$(BIN)/python -m experiments.real_clips --scale $(REAL_SCALE) --data "$(DATA)"

# One thread for each process: tests are many small pieces of work.
test: lint
	OMP_NUM_THREADS=1 FLOWVID_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile $(PYTEST_OPTIONS)

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python
	$(BIN)/lint-imports

venv: $(VENV)/.stamp-dev

clean:
	rm -rf $(VENV) dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find flowvid experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Dependency groups need pip 25.1, newer than the pip that comes with most Pythons.
$(VENV)/.stamp-pip: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	touch $@

$(VENV)/.stamp-run: pyproject.toml constraints.txt $(VENV)/.stamp-pip
	$(INSTALL) --build-constraint constraints.txt --editable .
	touch $@

$(VENV)/.stamp-dev: pyproject.toml constraints.txt $(VENV)/.stamp-pip
	$(INSTALL) --build-constraint constraints.txt --editable . --group dev
	touch $(VENV)/.stamp-run $@
