# make demo   environment, demo scene, a short training run with the live viewer, test metrics and a picture
# make test   environment and the whole test suite
# make lint   format, lint and type checks
#
# FINER_HOME moves the environments, PYTHON chooses the interpreter they are made with, ENV names one outright.

PYTHON ?= python3
FINER_HOME ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/finer_nerfstudio
# One environment per state of pyproject.toml: it is used by every clone that asks for the same packages.
ENV ?= $(FINER_HOME)/env-$(shell sha256sum pyproject.toml | cut -c1-16)
BIN := $(ENV)/bin
PYTEST_ARGS ?=

.PHONY: help env demo test lint
help:
	@sed -n 's/^# //p' $(firstword $(MAKEFILE_LIST))

# "packages" marks a finished installation; "clone" says which clone the package itself is imported from.
env: $(ENV)/packages
	@if [ "$$(cat $(ENV)/clone 2>/dev/null)" != "$(CURDIR)" ]; then \
		$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable . && echo "$(CURDIR)" > $(ENV)/clone; \
	fi

$(ENV)/packages:
	@echo "Installing into $(ENV): about 8 GB, a few minutes."
	rm -rf "$(ENV)"
	$(PYTHON) -m venv "$(ENV)"
	$(BIN)/pip install --quiet "hatchling>=1.24" editables
	$(BIN)/pip install --quiet --no-build-isolation --editable ".[dev]"
	@echo "$(CURDIR)" > $(ENV)/clone
	@touch $@

demo: env
	$(BIN)/python scripts/make_demo_scene.py --output-dir data/demo
	$(BIN)/python scripts/compare_methods.py --data data/demo --methods finer-wavelet --minutes 3 --viewer \
		--output-dir outputs/demo

test: env
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
