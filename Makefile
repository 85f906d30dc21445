# `make` shows what there is. Recipes are one line each: the work is in scripts/, which run without
# make too.

.DEFAULT_GOAL := help
.PHONY: help run env test test-long test-webui mutants simulate chaos check bench bench-relay
.PHONY: llama-server lock clean
SHELL := /bin/sh
MAKEFLAGS += --no-print-directory

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## start modelport with models to try (makes .venv at the first run)
	@sh scripts/env.sh run
	@sh scripts/run.sh $(ARGS)

env: ## make .venv and .venv-mlx for working on modelport
	@sh scripts/env.sh run test check mlx

test: ## run the whole test suite (ARGS="-k name -x" go to pytest)
	@sh scripts/test.sh $(ARGS)

test-long: ## the suite with full counts (seeds, examples), and the mutants
	@MODELPORT_SEEDS=2000 HYPOTHESIS_PROFILE=long sh scripts/test.sh -m "" --timeout 1200 $(ARGS)
	@$(MAKE) mutants

test-webui: ## drive Open WebUI from PyPI (an environment of 1.7 GB, once)
	@sh scripts/webui.sh $(ARGS)

mutants: ## break the core on purpose, one way at a time: the tests must notice
	@sh scripts/env.sh run test
	@.venv/bin/python -P tests/core/mutants.py

simulate: ## 100,000 seeds of the scheduler's world, over all processors (ARGS=2000 for fewer)
	@sh scripts/env.sh run test
	@PYTHONPATH=. .venv/bin/python -P -m tests.core.simulate $(ARGS)

chaos: ## ten minutes of faults on a whole daemon (ARGS="--minutes 60 --seed 7")
	@sh scripts/env.sh run test
	@PYTHONPATH=. .venv/bin/python -P -m tests.chaos $(ARGS)

check: ## format, lint, types, import directions, fast tests
	@sh scripts/check.sh

bench: ## measure the data path (after make env)
	@sh scripts/env.sh run test
	@for file in tests/bench/bench_*.py; do name=$$(basename "$$file" .py); \
	    echo "== $$name"; .venv/bin/python -P -m "tests.bench.$$name" $(ARGS) || exit 1; done

bench-relay: ## the data path beside nginx and others (ARGS="--only latency,rate --runs 5")
	@sh scripts/env.sh run test
	@PYTHONPATH=. .venv/bin/python -P -m tests.bench.bench_relay $(ARGS)

llama-server: ## compile a true llama-server for the tests (needs cmake and ninja)
	@sh scripts/llama_server.sh

lock: ## compile locks/ anew from pyproject.toml (ARGS=--upgrade for newer versions)
	@sh scripts/env.sh run
	@sh scripts/lock.sh $(ARGS)

clean: ## remove environments, caches and what was built
	rm -rf .venv .venv-mlx .venv-webui .demo .llama-server build dist htmlcov .coverage*
	rm -rf .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
