# DataFetch: the one place where every command of the project stands. `make help` is the table of contents.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
DOWNLOADER := .venv-downloader/bin
OPERATOR := .venv-operator/bin

.PHONY: help
help: ## This table
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Development
.PHONY: venvs
venvs: .venv-downloader/.ready .venv-operator/.ready ## Both environments, from the hashed lock files

.venv-%/.ready: requirements/%.txt requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv --clear .venv-$*
	.venv-$*/bin/python -m pip install -q --require-hashes -r requirements/$*.txt
	.venv-$*/bin/python -m pip install -q --require-hashes -r requirements/dev.txt
	.venv-$*/bin/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

.PHONY: lock
lock: ## Lock the dependencies again, by hash and without registry addresses (needs uv)
	for extra in operator downloader; do \
	  uv pip compile -q pyproject.toml --extra $$extra --python-version 3.11 --universal \
	    --generate-hashes --no-emit-index-url --no-header -o requirements/$$extra.txt; done
	uv pip compile -q --group dev --python-version 3.11 --universal -c requirements/operator.txt \
	  -c requirements/downloader.txt --generate-hashes --no-emit-index-url --no-header -o requirements/dev.txt
