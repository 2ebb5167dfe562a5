# make demo   environment, demo scene, three minutes of training each of finer-sine and finer-wavelet with the live
#             viewer, test metrics and a picture
# make test   environment and the whole test suite
# make lint   format, lint and type checks
#
# FINER_HOME moves the environments, PYTHON chooses the interpreter they are made with, ENV names one outright;
# MINUTES, DEMO_SCENE and DEMO_OUTPUT change the demo's training time and folders; PYTEST_ARGS go to the tests.

PYTHON ?= python3
FINER_HOME ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/finer_nerfstudio
# One environment per state of pyproject.toml: it is used by every clone that asks for the same packages.
ENV ?= $(FINER_HOME)/env-$(shell sha256sum pyproject.toml | cut -c1-16)
BIN := $(ENV)/bin
PYTEST_ARGS ?=
MINUTES ?= 3
DEMO_SCENE ?= data/demo
DEMO_OUTPUT ?= outputs/demo

.PHONY: help env demo test lint
help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

# "packages" marks a finished installation; "clone" says which clone the package itself is imported from.
env: $(ENV)/packages
	@if [ "$$(cat $(ENV)/clone 2>/dev/null)" != "$(CURDIR)" ]; then \
		$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable . && echo "$(CURDIR)" > $(ENV)/clone; \
	fi

$(ENV)/packages:
	@echo "Installing into $(ENV): about 8 GB, a few minutes."
	$(PYTHON) -m venv "$(ENV)"
	$(BIN)/pip install --quiet "hatchling>=1.24" editables
	$(BIN)/pip install --editable ".[dev]"
	@echo "$(CURDIR)" > $(ENV)/clone
	@touch $@

demo: env
	$(BIN)/finer demo-scene --output-dir "$(DEMO_SCENE)"
	$(BIN)/finer compare --data "$(DEMO_SCENE)" --methods finer-sine finer-wavelet --minutes $(MINUTES) \
		--viewer --output-dir "$(DEMO_OUTPUT)"

# One thread each: threads of several processes would wait for each other on the same cores.
test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto $(PYTEST_ARGS)

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
