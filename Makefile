# `make help` lists the targets. VENV=folder uses another virtual environment, PYTHON=python3.12 makes it with another Python.
# JOBS is the number of processes that run the tests; 0 is none but pytest's own.
VENV ?= .venv
PYTHON ?= python3
JOBS ?= 0

RUN := $(VENV)/bin/python
PYTEST = $(RUN) -m pytest --numprocesses=$(JOBS) --dist=worksteal
# Stamps: the environment is brought up to date only when the package's requirements change.
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help quickstart install test test-fast evidence faults hostile hunt readme lint format docker-test benchmarks clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

quickstart: $(INSTALLED)  ## train the digits CNN, quantize it with GPFQ and MSQ, say where the table and the pictures lie
	$(RUN) train/train_baseline.py --dataset=digits --architecture=cnn
	$(RUN) quantize/quantize_pretrained.py digits_cnn --methods=gpfq,msq --bits=2,3,4 --alphabet_scalars=0.75,1,1.5
	@echo
	@echo 'Next, in this shell (README.md has more):'
	@echo '    . $(VENV)/bin/activate'
	@echo '    python quantize/compare_exports.py digits_cnn  # the TFLite files that the network can become'

install: $(INSTALLED_DEV)  ## make the virtual environment with all that development needs

test: lint  ## check style and types, then run the tests (of long families of cases some)
	$(PYTEST)

evidence: JOBS = 2
evidence: $(INSTALLED_DEV)  ## run every case of every test (half an hour)
	ALL_CASES=1 $(PYTEST)

test-fast: JOBS = 2
test-fast: $(INSTALLED_DEV)  ## run, in two processes, the tests that take no training, no command run end to end and no second
	$(PYTEST) -m "not slow"

faults: $(INSTALLED_DEV)  ## torture: full disks, kills, cut files (as root, where a tmpfs can be mounted; ten minutes)
	$(RUN) -m pytest tests/faults

hostile: $(INSTALLED_DEV)  ## read every hostile file in a process of its own, with its time and memory (half an hour)
	$(RUN) -m pytest tests/hardening -m hostile -rP

hunt: JOBS = 2
hunt: $(INSTALLED_DEV)  ## export 300 random networks in every mode and width, each file against its simulation (an hour)
	HUNT_NETWORKS=300 $(RUN) -m pytest --numprocesses=$(JOBS) tests/hunt

readme: $(INSTALLED_DEV)  ## type README's commands into a shell that knows nothing (some minutes)
	$(RUN) -m pytest tests/readme

lint: $(INSTALLED_DEV)  ## check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	MYPYPATH=benchmarks:benchmarks/peers $(RUN) -m mypy --explicit-package-bases benchmarks

format: $(INSTALLED_DEV)  ## lay out the code and fix what ruff can fix
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docker-test:  ## build the image and run both commands in it as a foreign user (needs a docker engine, or root on Debian)
	bash tests/docker/build_and_run.sh

benchmarks: $(INSTALLED)  ## measure speed, memory and accuracy; KERAS_COMPRESS_DATA names the folder with the data sets
	set -e; for command in benchmarks/*.py; do $(RUN) $$command; done

clean:  ## remove caches and build products; trained models and results stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and \
	    "Python 3.11 to 3.13 is needed. Received: " + sys.version.split()[0] + ". Name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): setup.cfg | $(RUN)
	$(RUN) -m pip install --quiet --editable .
	touch $@

$(INSTALLED_DEV): setup.cfg | $(RUN)
	$(RUN) -m pip install --quiet --editable '.[dev]'
	touch $(INSTALLED) $@
