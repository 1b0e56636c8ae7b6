# make sim    a simulated robot learns by itself     make test   all tests, with real nodes
# make demos  records the demonstrations of a task anew, without a person
# make check  lint, types and the tests that take a minute
# make docs   builds the documentation into site/
# make clean  removes the virtual environment
#
# Needs Python 3.11 (or newer, where the pinned wheels exist) and nothing else: ROS 2 comes from PyPI.

TASK ?= pointmass
SEED ?= 0
# Further arguments of `mbarl up`, for example ARGS='steps:=5000 view:=lines'
ARGS ?=
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXTRAS ?= ros,sim,studies,formats,video,web,track,scale,dev,docs
CONSTRAINTS ?= constraints.txt
# torch without CUDA; where this index cannot be reached, PyPI's torch does as well
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PYTEST_ARGS ?=
# Processes that share the tests which are right at any speed
JOBS ?= 2

STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help venv sim demos docs check test lint clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

venv: $(STAMP)

$(STAMP): setup.py setup.cfg pyproject.toml $(CONSTRAINTS)
	@test -n '$(PYTHON)' || { echo 'error: no python3.11 found; install it or set PYTHON=/path/to/python3.11'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'error: $(PYTHON) is older than 3.11; set PYTHON=/path/to/python3.11'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch -c $(CONSTRAINTS) --no-deps --retries 1 --extra-index-url $(TORCH_INDEX)
	$(PIP) -e '.[$(EXTRAS)]' -c $(CONSTRAINTS)
	@touch $@

# exec, so that Ctrl-C has one process to talk to, and make passes the exit code on.
sim: $(STAMP)
	@exec $(BIN)/mbarl up sim task:=$(TASK) seed:=$(SEED) $(ARGS)

demos: $(STAMP)
	rm -rf build/demos/$(TASK)
	$(BIN)/mbarl up record task:=$(TASK) seed:=$(SEED) demos:=build/demos/$(TASK) $(ARGS)
	mkdir -p demos
	rm -rf demos/$(TASK)
	mv build/demos/$(TASK) demos/$(TASK)

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What a change should pass before each commit, in about a minute; test_walls.py holds the rooms
check: lint
	$(PYTEST) -m 'not graph and not slow' -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

# Exit code 5 is "nothing selected": PYTEST_ARGS may want tests of one kind only. Tests of one file
# that start nodes stay in one process, since they share graphs.
test: $(STAMP)
	$(PYTEST) -m 'not graph' -n $(JOBS) --dist worksteal $(PYTEST_ARGS) || [ $$? -eq 5 ]
	$(PYTEST) -m 'graph and not paced and not alone' -n $(JOBS) --dist loadfile $(PYTEST_ARGS) || [ $$? -eq 5 ]
	$(PYTEST) -m 'paced and not alone' -n $(JOBS) --dist loadfile $(PYTEST_ARGS) || [ $$? -eq 5 ]
	$(PYTEST) -m alone $(PYTEST_ARGS) || [ $$? -eq 5 ]

clean:
	rm -rf $(VENV) build site *.egg-info
