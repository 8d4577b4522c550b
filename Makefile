# Python by uv, Kubernetes by Go, the rest from Debian packages; `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CLUSTER := $(BIN)/python -m localcluster
PYTEST := $(BIN)/python -m pytest
SUITES := tests/unit tests/property tests/fuzz tests/integration
WHOLE := $(PYTEST) --no-skips --durations=20
# One more than cores: tests of servers wait as much as they work.
PARALLEL := --numprocesses=$(shell n=$$(nproc); echo $$(( n < 4 ? n + 1 : 4 ))) --dist=loadfile \
	--no-loadscope-reorder
LOCK := uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-annotate --no-header pyproject.toml

.PHONY: help venv demo test check mutants fuzz soak lint crd bench lock up down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

venv: $(READY) ## make .venv with the pinned dependencies and this project in it

$(READY): requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is not installed." >&2; exit 1; }
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is older than 3.11 or has no venv." \
	       "Fix: apt-get install python3-venv, or make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: venv ## the whole story on this machine: sealed data in, signed model out, three thefts fail
	$(BIN)/python -m localcluster.demo

test: venv ## every test, on real servers; a skipped test is a failure
	$(CLUSTER) prepare
	$(WHOLE) $(PARALLEL) $(SUITES)
	$(WHOLE) tests/e2e

check: lint ## what lint does, and the fast tests
	$(PYTEST) --quiet $(PARALLEL) tests/unit tests/property

mutants: venv ## take the guards out one by one and demand that a test goes red each time; TOPICS="storage s3"
	PYTHONPATH=tests $(BIN)/python -m mutation $(TOPICS)

fuzz: venv ## look for inputs that break a parser; FUZZ="policy shard" SECONDS=1200, all for a minute each
	PYTHONPATH=tests:. KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=2 \
	  $(BIN)/python -m fuzz --seconds $(or $(SECONDS),60) $(FUZZ)

soak: venv ## hours: 200 jobs under kills and faults, a crash at every step, 4 GiB in a small pod; JOBS=30 SEED=7
	PYTHONPATH=tests $(BIN)/python -m soak --jobs $(or $(JOBS),200) $(if $(SEED),--seed $(SEED))
	$(PYTEST) tests/soak

lint: venv ## format, style, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy -p localcluster
	$(BIN)/lint-imports

bench: venv ## what encryption costs: Tink, AES-GCM, plaintext training; fails below a target
	PYTHONPATH=tests $(BIN)/python -m bench

crd: venv ## write the CRD and the chart's copy anew from the types
	$(BIN)/python -m securetrain.api.crd

lock: venv ## pin the dependencies anew, within the ranges of pyproject.toml
	$(BIN)/$(LOCK) --extra operator --output-file requirements/operator.txt
	$(BIN)/$(LOCK) --extra trainer --output-file requirements/trainer.txt
	$(BIN)/$(LOCK) --all-extras --output-file requirements/dev.txt
	awk '/^[a-z]/ {keep = /^uv==/} keep' requirements/dev.txt > requirements/uv.txt

up: venv ## start the local cluster and print how to use it
	$(CLUSTER) up

down: venv ## stop the local cluster
	$(CLUSTER) down

clean: ## stop the local cluster and remove build/; .venv and the cache stay
	if [ -d build/cluster ]; then $(CLUSTER) down; fi
	rm -rf build
