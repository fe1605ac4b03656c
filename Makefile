# Every target works on a machine with Python 3.11 or newer, make and git.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first of these that runs and is new enough. Choose another with
# `make setup PYTHON=...`; an environment that is there keeps its own.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  && echo $$p && break; done)

VENV := .venv
PY := $(VENV)/bin/python
# The tested versions. JAX 0.10 is the last for Python 3.11, so that newer
# Pythons have a lock of their own.
LOCKS := requirements.lock requirements-3.12.lock
LOCK = $$($(PY) -c 'import sys; print(sys.argv[1 + (sys.version_info >= \
  (3, 12))])' $(LOCKS))
# Of one generator of Reasoning Gym; not every machine can install it.
SOLVER := pycosat==0.6.6
PIP := $(PY) -m pip --disable-pip-version-check --quiet
# PyTorch without CUDA. If it cannot be reached, the default index serves
# (on Linux that build brings gigabytes of CUDA libraries).
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# Some of Reasoning Gym's tasks depend on the order of hashes.
export PYTHONHASHSEED := 0

TEST_ENV := JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=2
PYTEST := $(TEST_ENV) $(PY) -m pytest -n auto --maxprocesses 4 \
  --dist loadfile $(ARGS)

.PHONY: help setup setup-test test test-slow lint format quickstart methods \
  real bench docs clean

help:
	@echo "make setup       .venv with the tested versions"
	@echo "make quickstart  base policy, ProGRPO beside GRPO, report (CPU)"
	@echo "make methods     every method from one base, three seeds each"
	@echo "make real        a pretrained model: ProGRPO beside GRPO (CPU)"
	@echo "make test        lint and all tests but the slow ones"
	@echo "make test-slow   the slow tests; the numerical ones, optimised"
	@echo "make lint        ruff alone: faults and format"
	@echo "make format      bring all code into ruff's format"
	@echo "make bench       speed against the machine's limits"
	@echo "make docs        the site of docs/, in build/site"
	@echo "make clean       remove the environment and the caches"

setup: $(VENV)/.setup

setup-test: $(VENV)/.setup-test

$(VENV)/.setup: $(LOCKS) setup.py
	@$(if $(PYTHON),,echo "No Python 3.11 or newer found: install one, or" \
	  "name it with PYTHON=/path/to/python3" >&2; exit 2)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	  "Python 3.11 or newer is needed; $(PYTHON) is %d.%d: name a newer one" \
	  " with PYTHON=/path/to/python3" % sys.version_info[:2])'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install --no-deps -r $(LOCK)
	$(PIP) install $(SOLVER) 2>/dev/null || echo "No $(SOLVER), which has" \
	  "no wheel here and takes a C compiler: all works but zebra_puzzles."
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.setup-test: $(VENV)/.setup requirements-test.lock
	$(PIP) install --retries 0 --extra-index-url $(TORCH_INDEX) \
	  $$(grep ^torch== requirements-test.lock)
	$(PIP) install --no-deps -r $(LOCK) -r requirements-test.lock
	@touch $@

lint: setup-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check --quiet . || { echo "Run make format." >&2; \
	  exit 1; }

format: setup-test
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

test: setup-test lint
	$(PYTEST) --ignore=tests/slow

# The tests compile without most optimisations, for speed; here what the
# numbers rest on is compiled as users compile it.
test-slow: setup-test
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PYTEST) tests/slow tests/models \
	  tests/multi_device tests/learn tests/rollout tests/test_resume.py

quickstart: setup
	$(PY) -m progrpo_jax.cli.quickstart $(ARGS)

methods: setup
	$(PY) -m progrpo_jax.cli.quickstart --methods all --seeds 3 \
	  --output runs/methods $(ARGS)

real: setup
	$(PY) tools/make_real_model.py runs/real/base
	$(PY) -m progrpo_jax.cli.quickstart --config configs/smollm2.py \
	  --base runs/real/base --output runs/real $(ARGS)

bench: setup
	$(PY) -m progrpo_jax.cli.bench $(ARGS)

docs: setup-test
	$(PY) -m mkdocs build --strict

clean:
	rm -rf $(VENV) .cache .hypothesis .pytest_cache .ruff_cache build \
	  *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
