# Two commands do it all: `make repro` (the results) and `make test` (the checks). See `make help`.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
STAMP := $(VENV)/installed
SWITCH := $(if $(PRESET),--preset "$(PRESET)") $(if $(DATA),--data "$(DATA)")

.DEFAULT_GOAL := help
.PHONY: help repro test lab notebooks lock clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo "PRESET=quick|subset|paper and DATA=<folder> choose what is run; they are written into params.yaml."

repro: $(STAMP) ## install and run the pipeline: images, training, tables, figures, notebooks (dvc repro)
	@python -m qmvae.params $(SWITCH)
	dvc repro

# The stages that make what the notebooks read; the notebooks themselves are run by nbval, which compares their outputs.
test: $(STAMP) ## install and run every check: the models of `quick` trained, unit tests, notebooks compared (nbval)
	@python -m qmvae.params $(SWITCH)
	@grep -qE '^preset: quick\b' params.yaml || { echo "make test: the notebooks are compared with the preset quick, but params.yaml has another: make test PRESET=quick"; exit 1; }
	dvc repro metrics
	python -m pytest --nbval

lab: $(STAMP) ## open the notebooks in JupyterLab
	jupyter lab --notebook-dir=notebooks --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate

notebooks: $(STAMP) ## for maintainers: take the outputs of the executed `quick` notebooks into notebooks/
	cp reports/quick/notebooks/*.ipynb notebooks/

lock: $(STAMP) ## for maintainers: resolve pyproject.toml anew into requirements.lock, for Linux and macOS
	$(VENV)/bin/pip install --quiet uv
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --no-annotate pyproject.toml -o requirements.lock

clean: ## remove what runs made for machines (artifacts, DVC's cache); reports, data and .venv stay
	rm -rf artifacts .dvc/cache .dvc/tmp

# The stamp comes last, so that an installation that was broken off is done again.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version) is too old, Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-compile --require-hashes -r requirements.lock
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
