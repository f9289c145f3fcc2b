# One file of commands; `make help` lists them. Everything runs in .venv, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers/bin
TRACE ?=
DEMO := .demo
DEMO_DEVICE ?= cpu?capacity=256MiB > lmdb:$(DEMO)/lmdb?capacity=2GiB
REAL_TRACE ?= ../shared/traces/conversation_trace.jsonl
MINUTES ?= 60
JOBS ?= 2
ENGINE ?=
VERSIONS ?=
PROFILE ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all downstream lint format docs board devices-page api-page zoo findings serve fuzz interop doors doors-quick soak soak-server soak-shared \
  soak-fleet bench-fleet bench-lmdb bench-codecs bench-store bench-getter bench-server bench-shared bench-redis bench-s3 bench-mooncake bench-door-vllm bench-peers gpu-check gpu-wheels policy-tables peers

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

test: install ## run the tests, but for those marked deep: a few minutes
	@$(BIN)/python scripts/suite.py --jobs $(JOBS)

test-all: install ## run every test, fresh environments and thousands of drawn programs included
	@$(BIN)/python scripts/suite.py --jobs $(JOBS) --all

downstream: install ## the suites of the examples, and of plugins that an earlier version generated
	$(BIN)/python -m pytest -q tests/packaging/test_downstream.py tests/packaging/test_examples.py

lint: install ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install ## build the documentation strictly into ./site, with the board of what lies in ./reports
	$(BIN)/python -m mkdocs build --strict
	test -z "$$(find reports -name '*.json' 2> /dev/null)" || $(BIN)/python -m lms_conformance.board reports --out site/board

board: install ## run the kit over what the project ships (PROFILE=ci), keep the reports, write ./site/board
	$(BIN)/python -m scripts.board $(addprefix --profile ,$(PROFILE))

devices-page: install ## write docs/devices.md from the plugins' options models
	$(BIN)/python -m scripts.devices_page

api-page: install ## write docs/api.md from signatures and docstrings
	$(BIN)/python -m scripts.api_page

zoo: install ## run the kit over its zoo of broken backends and write the matrix
	$(BIN)/python -m lms_conformance.zoo --seeds 1,2,3,4,5 --output docs/zoo.md

findings: peers ## run the kit over stores that nobody here wrote
	PYTHONPATH=conformance $(PEERS)/python -m findings --json findings.json --reports reports

serve: install ## serve lm:// on loopback with the embedded default
	$(BIN)/lms-tiers serve

fuzz: install ## fuzz the wire's parsers and sessions with atheris for MINUTES each
	$(BIN)/python -m pip install -q -e ".[fuzz]"
	$(BIN)/python -m fuzz.wire -max_total_time=$$(( $(MINUTES) * 60 ))
	$(BIN)/python -m fuzz.session -max_total_time=$$(( $(MINUTES) * 60 ))

interop: install ## run LMCache's own client and server against this project, in an environment of their own
	$(BIN)/python interop/run.py

doors: install ## each ENGINE's own acceptance and our tests in it, over its newest releases or VERSIONS
	$(BIN)/python -m scripts.doors $(addprefix --engine ,$(ENGINE)) $(addprefix --versions ,$(VERSIONS))

doors-quick: install ## the same for one release of each engine, the fast part
	$(BIN)/python -m scripts.doors --quick $(addprefix --engine ,$(ENGINE))

soak: install ## put, get, restart and break a store for MINUTES and compare every byte
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

soak-server: install ## kill and restart a server under load for MINUTES
	$(BIN)/python benchmarks/server_soak.py --minutes $(MINUTES)

soak-shared: install ## two and four stores over one server, stores and server killed at random, for MINUTES
	$(BIN)/python -m benchmarks.shared_soak --minutes $(MINUTES)

soak-fleet: install ## a fleet of four network namespaces over a Redis Cluster, through faults drawn at random for MINUTES; needs root
	$(BIN)/python -m benchmarks.fleet_soak $(or $(TRACE),$(wildcard $(REAL_TRACE))) --minutes $(MINUTES)

bench-lmdb: install ## churn, hot reads and a million chunks of the LMDB tier, beside memcpy and disk
	$(BIN)/python -m benchmarks.lmdb_all --markdown docs/bench/lmdb.md

bench-codecs: peers ## codecs beside blosc2 and ZipNN
	$(PEERS)/python benchmarks/codecs.py --markdown docs/bench/codecs.md

bench-store: install ## what the tiered store costs over its top tier
	$(BIN)/python benchmarks/store.py

bench-getter: install ## what the tiered store adds to cold gets, hits and puts, beside what each is held against
	$(BIN)/python -m benchmarks.getter $(if $(or $(TRACE),$(REAL_TRACE)),--trace $(or $(TRACE),$(REAL_TRACE)))

bench-server: peers ## the server beside LMCache's, with LMCache's client
	$(PEERS)/python benchmarks/server.py --markdown docs/bench/server.md

bench-shared: install ## what a tier shared with others costs: round trips, opening, cold batches, hits while it hangs
	$(BIN)/python -m benchmarks.shared --markdown docs/bench/shared.md

bench-door-vllm: install ## the tier under vLLM beside vLLM's own fs, in the environment of make doors
	$(BIN)/python -m benchmarks.door_vllm --markdown docs/bench/door-vllm.md

bench-redis: peers ## the backend redis beside redis-py and a bare recv_into loop; needs redis-server
	$(PEERS)/python -m benchmarks.redis --markdown docs/bench/redis.md

bench-fleet: install ## four hosts over a Redis Cluster beside four that share nothing and on paper, then through faults; needs root
	$(BIN)/python -m benchmarks.fleet $(or $(TRACE),$(wildcard $(REAL_TRACE))) --markdown docs/bench/fleet.md

bench-mooncake: peers ## the backend mooncake beside bare get_into and LMCache's connector
	$(PEERS)/python -m benchmarks.mooncake --markdown docs/bench/mooncake.md

bench-s3: install ## the backend s3 beside bare obstore
	$(BIN)/python -m benchmarks.s3 --markdown docs/bench/s3.md

bench-peers: install peers ## this store beside its peers over the real trace
	$(BIN)/python benchmarks/peers.py $(or $(TRACE),$(REAL_TRACE)) --python $(PEERS)/python --repeats 3

gpu-check: ## conformance and copy rates of pinned and gpu tiers, against the machine's own ceilings
	$(PYTHON) benchmarks/accelerator.py --wheels .wheels --conform quick --json accelerator.json

gpu-wheels: ## fetch what a bare Python 3.12 machine lacks, for gpu-check there
	$(PYTHON) -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
	  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
	  -d .wheels lmdb zstandard xxhash pydantic pydantic-core typing-inspection annotated-types

policy-tables: install ## regenerate the tables of docs/policies.md from the real trace
	$(BIN)/python -m benchmarks.policy_tables $(or $(TRACE),$(REAL_TRACE))

peers: .venv-peers/.installed

.venv-peers/.installed: benchmarks/peers.txt constraints.txt
	test -x $(PEERS)/python || $(PYTHON) -m venv .venv-peers
	$(PEERS)/python -m pip install -q -c constraints.txt -e '.[conformance]' -r benchmarks/peers.txt
	$(PEERS)/python -m pip install -q --no-deps lmcache==0.5.6 sglang==0.5.23
	touch $@
