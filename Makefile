# `make demo` builds the environment and runs the main job; `make test` builds it and tests.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# one thread pool per test process: two of them share the cores; a file stays in one process, which
# then compiles its kernels and trains its shared runs once; bytecode is kept for the many processes
TEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

.PHONY: help install demo test test-slow test-pythons check lint types bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with everything, tests included

$(STAMP): pyproject.toml constraints.txt tools/make-venv
	@./tools/make-venv $(VENV)
	@touch $@

demo: $(STAMP) ## the main job: LT-Gate through two tasks, on real digits
	$(BIN)/python launch.py experiment=demo

test: $(STAMP) ## tests (a few minutes)
	$(TEST) -n 2 --dist loadfile -m "not slow" tests

test-slow: $(STAMP) ## the long tests: learning targets, kill and resume, exactness at scale
	$(TEST) -n 2 --dist loadfile -m slow tests

test-pythons: ## tests on Python 3.11, 3.12 and 3.13, each in an environment of its own
	for version in 3.11 3.12 3.13; do \
	    $(MAKE) test VENV=.venv-$$version PYTHON=$$version || exit 1; \
	done

check: $(STAMP) lint types ## linter, type checker, import directions and tests: what a commit needs
	$(TEST) -n 2 --dist loadfile -m "not slow" tests

lint: $(STAMP) ## ruff and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP) ## mypy
	$(BIN)/mypy

bench: $(STAMP) ## measure kernels, training step, data, start-up and searches, as ratios in one run
	$(BIN)/python -m benchmarks

docs: $(STAMP) ## write docs/techniques.md and docs/losses.md from the config files
	$(BIN)/python tools/make_pages.py

clean: ## remove the environment and caches (runs and data stay)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
