# One entry for everything. `make` alone lists the targets.
#
# .venv holds every extra and every development tool; `make venv` builds it, and the other targets call it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.made
PROTOS := $(wildcard proto/tmem/v1/*.proto)

RUN    := $(BIN)/tmemd --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 --log-level warning

.DEFAULT_GOAL := help
.PHONY: help venv run test test-long faults fuzz soak mutants lint format gen baseline lock bench system-packages clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

venv: $(STAMP)  ## build .venv with every extra and development tool

# Where the daemon's memory can't be locked it ends with 2, and the demonstration that needs no privilege is shown.
run: venv  ## the main job: a daemon, and a real program that has a quarter of its memory here and the rest there
	@$(RUN) --lock-memory --run '$(BIN)/tmem demo --with auto' || { [ $$? -eq 2 ] && $(RUN) --run '$(BIN)/tmem demo --with auto'; }

system-packages: venv
	@$(BIN)/python tests/system_packages.py --install

test: venv system-packages  ## set up and pass the tests (under 20 minutes on 2 cores)
	$(BIN)/pytest

test-long: venv system-packages  ## the tests that take longer
	$(BIN)/pytest -m long

faults: venv system-packages  ## the fault campaign: MINUTES=10, SEED=1
	$(BIN)/python -m tests.faults.campaign --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1)

fuzz: venv  ## fuzz everything that parses bytes: RUNS=150000 for each target
	$(BIN)/python -m tests.fuzz.campaign --runs $(or $(RUNS),150000)

soak: venv  ## mixed load with cancels, and whether anything grows: MINUTES=10
	$(BIN)/python -m tests.soak.soak --minutes $(or $(MINUTES),10)

mutants: venv system-packages  ## plant deliberate faults in a copy, and show that each is found
	$(BIN)/python -m tests.mutants.check

lint: venv  ## ruff, mypy, import rings, buf, yaml, Dockerfile
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code >/dev/null && ../$(BIN)/buf breaking --against baseline.binpb
	$(BIN)/yamllint --strict deploy
	$(BIN)/hadolint deploy/docker/Dockerfile

format: venv  ## put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	cd proto && ../$(BIN)/buf format --write

gen: venv  ## generate the contract's code, and the blocking face of the client
	cd proto && PATH="$(CURDIR)/$(BIN):$$PATH" python -m grpc_tools.protoc -I. --python_out=. --mypy_out=quiet:. $(PROTOS:proto/%=%)
	cd proto && PATH="$(CURDIR)/$(BIN):$$PATH" python -m grpc_tools.protoc -I. --grpc_python_out=. --mypy_grpc_out=quiet:. \
		$(filter-out %/common.proto,$(PROTOS:proto/%=%))
	$(BIN)/python client/generate_sync.py

baseline: venv  ## take the contract as it is for released; `make lint` holds later ones against it
	cd proto && ../$(BIN)/buf build --exclude-source-info --as-file-descriptor-set -o baseline.binpb

lock: venv  ## pin every dependency anew in requirements.lock
	$(BIN)/uv pip compile --quiet --universal --all-extras --group dev --generate-hashes --no-header --no-annotate \
		--python-version 3.11 --output-file requirements.lock --upgrade pyproject.toml

bench: venv system-packages  ## what calls, pages and megabytes cost beside their floors, the store beside its goals, tmem beside its peers; real programs with little memory (root)
	$(BIN)/tmemd --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 --log-level warning --run '$(BIN)/tmem bench'
	$(BIN)/tmem bench store --quick
	mkdir -p reports
	$(BIN)/tmem bench peers --quick --report reports/peers.html
	$(BIN)/tmem bench programs --quick --report reports/programs.html

clean:  ## remove what the targets made
	rm -rf $(VENV) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist reports
	find . -name __pycache__ -prune -exec rm -rf {} +
