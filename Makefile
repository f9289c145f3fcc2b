# One file of commands; `make help` lists them. Everything runs in .venv, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRACE ?=
DEMO := .demo
DEMO_DEVICE ?= cpu?capacity=256MiB > lmdb:$(DEMO)/lmdb?capacity=2GiB
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format conform

help: ## show the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(VENV)/.installed ## make .venv and install the project with its development tools

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: install ## generate a trace (or take TRACE=file), replay it over cpu > lmdb in ./.demo, restart, plot
	rm -rf $(DEMO) && mkdir -p $(DEMO)
	@trace='$(TRACE)'; \
	if [ -z "$$trace" ]; then trace=$(DEMO)/trace.jsonl; $(BIN)/lms-tiers make-trace $$trace --requests 600; fi; \
	$(BIN)/lms-tiers replay $$trace --requests 600 --device '$(DEMO_DEVICE)' --restart \
	  --json $(DEMO)/replay.json --plot $(DEMO)/replay.png
	@echo "results: $(DEMO)/replay.json, $(DEMO)/replay.png"

test: install ## run the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests

lint: install ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
