# Two commands do it all: `make repro` (the results) and `make test` (the checks). See `make help`.

# These count if they are given after `make`; exported variables of the same names are for other programs.
PYTHON := python3
VENV := .venv
PRESET :=
DATA :=
export PATH := $(abspath $(VENV))/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
# Some containers set it. Then each of the hundred processes of a run compiles PyTorch again, which takes two seconds.
export PYTHONDONTWRITEBYTECODE :=
SWITCH := $(if $(PRESET),--preset "$(PRESET)") $(if $(DATA),--data "$(DATA)")

.DEFAULT_GOAL := help
.PHONY: help repro test check test-faults test-oldest bench contention speedrun lab site tuning notebooks ablations checkpoint lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile
	@echo "PRESET=quick|subset|paper and DATA=<folder> choose what is run; they are written into params.yaml."

repro: $(VENV)/installed ## install and run the pipeline: images, training, tables, figures, notebooks (dvc repro)
	@$(VENV)/bin/python -m qmvae repro $(SWITCH)

# The stages that make what the notebooks read; the notebooks themselves are run by nbval, which compares their outputs.
# Two files of tests at once, one thread each: threads that wait for a core slow each other down several times.
test: $(VENV)/installed ## install and test: the models of `quick` trained, unit tests, notebooks compared (nbval)
	@[ "$(PRESET)" = quick ] || { [ -z "$(PRESET)" ] && grep -qE '^preset: +quick( |$$)' params.yaml; } || { \
	    echo "make test: the notebooks are compared with the preset quick, but another is asked for: make test PRESET=quick"; exit 1; }
	@$(VENV)/bin/python -m qmvae repro $(SWITCH) metrics
	@$(VENV)/bin/pip install --quiet playwright==1.65.2 || echo "make test: without playwright no browser looks at the web pages"
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --nbval -n 2 --dist loadfile

check: $(VENV)/installed ## lint, types, import rules, no paths of one machine in notebooks, numbers of the text
	$(VENV)/bin/pip install --quiet ruff==0.17.6 mypy==2.4.1
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check --quiet
	$(VENV)/bin/mypy qmvae tools ablations
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m qmvae check-notebooks
	$(VENV)/bin/python tools/prose_numbers.py --check

# QMVAE_FAULTS_SEED=<number> chooses other random moments.
test-faults: $(VENV)/installed ## install and inject every fault of docs/robustness.md: kills, Ctrl-C, full disks, ... (about an hour)
	$(VENV)/bin/python -m pytest -m "faults or not faults" tests

# Other Pythons with the pins of the lock: make test VENV=.venv-3.13 PYTHON=python3.13
test-oldest: $(VENV)/installed ## for maintainers: unit tests with the lowest versions that pyproject.toml allows (torch 2.11)
	$(VENV)/bin/pip install --quiet uv
	$(VENV)/bin/uv venv --quiet --clear --python $(PYTHON) .venv-oldest
	$(VENV)/bin/uv pip install --quiet --python .venv-oldest --resolution lowest-direct --all-extras -r pyproject.toml
	$(VENV)/bin/uv pip install --quiet --python .venv-oldest --no-deps --no-build-isolation -e .
	.venv-oldest/bin/python -m pytest tests

ablations: $(VENV)/installed ## train Q-MVAE with one part changed at a time, and with three modalities (ablations/dvc.yaml): hours on 2 cores for `subset`
	@$(VENV)/bin/python -m qmvae repro $(SWITCH) ablations/dvc.yaml

tuning: $(VENV)/installed ## run the entries of ablations/tuning.yaml that have no row in tuning.csv, on `subset`: minutes to hours each; needs `make repro PRESET=subset` first
	OMP_NUM_THREADS=1 $(VENV)/bin/python ablations/tune.py

# MultiVae, and those of its requirements that we lack, go into a folder of their own. Run these on a quiet machine.
BENCH := multivae==1.0.3 pythae==0.1.2 imageio==2.38.1 nltk==3.10.4 regex==2026.11.15 torchmetrics==1.9.0 lightning-utilities==0.15.3
bench: $(VENV)/installed ## measure training against MultiVae, torch.compile, the pipeline's stages, and how cost grows: about an hour
	$(VENV)/bin/pip install --quiet --no-deps --upgrade --target .bench $(BENCH)
	$(VENV)/bin/python benchmarks/startup.py
	PYTHONPATH=.bench $(VENV)/bin/python benchmarks/throughput.py
	$(VENV)/bin/python benchmarks/compile.py
	$(VENV)/bin/python benchmarks/scaling.py
	$(VENV)/bin/python benchmarks/stages.py --whole
	$(VENV)/bin/python benchmarks/rehearsal.py

contention: $(VENV)/installed ## measure a training step beside a busy process and beside a second training process
	$(VENV)/bin/python benchmarks/contention.py

speedrun: $(VENV)/installed ## how many core-minutes to which accuracy; after `make repro PRESET=subset DATA=...`, which leaves images and classifiers
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/speedrun.py

# No news, no look for updates, no catalogue of extensions: nothing is asked of the network.
lab: $(VENV)/installed ## open the notebooks in JupyterLab
	$(VENV)/bin/jupyter lab notebooks/01_data.ipynb --LabApp.news_url=None --LabApp.extension_manager=readonly \
	    --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate

site: $(VENV)/installed ## turn README, notebooks, API and a playground into web pages, without training: open reports/site/index.html
	$(VENV)/bin/python tools/site.py

notebooks: $(VENV)/installed ## for maintainers: run all notebooks and take their outputs into notebooks/ (`published`, real images) and tests/notebooks (`quick`, texts)
	@$(VENV)/bin/python -m qmvae repro --preset quick
	$(VENV)/bin/python tools/notebook_outputs.py
	$(VENV)/bin/dvc commit --quiet --force dvc.yaml  # not ablations/dvc.yaml, which was run on `subset`

checkpoint: $(VENV)/installed ## for maintainers: publish the first seed of the models of `subset` as reports/subset/checkpoint
	$(VENV)/bin/python -m qmvae publish

# What is pinned stays as long as pyproject.toml allows it; delete requirements.lock first to bring all of it up to date.
lock: $(VENV)/installed ## for maintainers: resolve pyproject.toml into requirements.lock, for Linux and macOS
	$(VENV)/bin/pip install --quiet uv
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --no-annotate --all-extras pyproject.toml -o requirements.lock

clean: ## remove what runs made for machines (artifacts, DVC's cache); reports, data and .venv stay
	rm -rf artifacts .dvc/cache .dvc/tmp .pytest_cache

# `installing` becomes `installed` at the end; one that is found at the start is an interrupted installation.
$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); try make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@if [ -e $(VENV)/installing ]; then echo "the last installation was interrupted: starting again"; rm -rf $(VENV); fi
	@echo "installing into $(VENV): PyTorch alone is some gigabytes, this takes minutes"
	$(PYTHON) -m venv $(VENV)
	@touch $(VENV)/installing
	$(VENV)/bin/pip install --quiet --no-compile --require-hashes -r requirements.lock
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation -e .
	@mv $(VENV)/installing $@
