# Everything a newcomer needs, and all that CI runs. Works from any directory: make -C path/to/clone run
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
ARGS ?=
PART ?=
N ?= 20
BASE ?= c55f375
CONFIG ?= configs/smoke.yaml
# One file stays on one worker, so its module fixtures (a Prefect server, a trained tiny run) are made once.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

PYTEST ?= -m pytest
COVERED := -m coverage run -m pytest

# The versions that `make constraints` resolves around; everything else floats to what they allow.
ANCHORS := torch==2.13.0 prefect==3.8.8 fastapi==0.150.0 wandb==0.31.0 vastai==1.9.1

# No telemetry from a build, a test or a quickstart. Prefect reads the second name.
export DO_NOT_TRACK ?= 1
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false

# Paths are relative to this file (make -C changes directory first), so a clone may lie under a path with spaces.
BIN := .venv/bin
VPY := $(BIN)/python
STAMP := .venv/.stamp-installed

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' Makefile

.PHONY: run
run: $(STAMP) ## Train and evaluate the quickstart, resuming where it was (ARGS="--config configs/burgers_32dim.yaml")
	@$(VPY) flows/pipeline.py --auto-resume $(ARGS)

.PHONY: test
test: $(STAMP) ## Run the unit tests: in process, no server (PYTEST_ARGS="-x tests/unit/test_architecture.py")
	$(VPY) $(PYTEST) $(if $(findstring tests/,$(PYTEST_ARGS)),,tests/unit) $(PYTEST_ARGS)

.PHONY: test-e2e
test-e2e: $(STAMP) ## Run the end-to-end tests: the real command line against real servers on loopback
	$(VPY) $(PYTEST) tests/e2e -m 'not thorough' $(PYTEST_ARGS)

.PHONY: test-thorough
test-thorough: $(STAMP) ## Run the end-to-end tests that CI leaves out: longer forms and other values of what it tries
	$(VPY) $(PYTEST) tests/e2e -m thorough $(PYTEST_ARGS)

.PHONY: test-harness
test-harness: $(STAMP) ## Run the tests of the harness itself: emulators and guards
	$(VPY) $(PYTEST) tests/harness/tests $(PYTEST_ARGS)

.PHONY: coverage
coverage: $(STAMP) ## Run every tier, the unit tests with branch coverage: >= 90 % by them alone, and so no less by all
	rm -f .coverage .coverage.*
	$(MAKE) test PYTEST='$(COVERED)'
	$(VPY) -m coverage combine --quiet
	$(VPY) -m coverage report --fail-under=90
	$(MAKE) test-e2e test-harness

.PHONY: coverage-all
coverage-all: $(STAMP) ## The same with every tier and its child processes traced, which takes two thirds longer
	rm -f .coverage .coverage.*
	$(MAKE) test test-e2e test-harness PYTEST='$(COVERED)'
	$(VPY) -m coverage combine --quiet
	$(VPY) -m coverage report --fail-under=90

.PHONY: lint
lint: $(STAMP) ## Check style, types, architecture and shell scripts
	$(VPY) -m ruff check .
	$(VPY) -m ruff format --check .
	$(VPY) -m mypy
	$(BIN)/lint-imports
	find . -name .venv -prune -o -type f \( -name '*.sh' -o -path ./.ci/run \) -print0 | xargs -0 $(BIN)/shellcheck

.PHONY: fmt
fmt: $(STAMP) ## Format the code and fix what can be fixed
	$(VPY) -m ruff check --fix .
	$(VPY) -m ruff format .

.PHONY: docs
docs: $(STAMP) ## Build the documentation as a site, in site/; a link that leads nowhere fails
	@NO_MKDOCS_2_WARNING=1 PYTHONPATH=tests $(VPY) -m mkdocs build --quiet --site-dir site

.PHONY: server
server: $(STAMP) ## A Prefect server and a worker on 127.0.0.1 (then: ups deploy)
	@PATH="$(CURDIR)/$(BIN):$$PATH" deployments/server.sh

.PHONY: bench-quickstart
bench-quickstart: $(STAMP) ## The quickstart with three seeds on fresh data: time, memory and metrics, as a table
	@PYTHONPATH=tests $(VPY) -m harness.bench.quickstart $(ARGS)

.PHONY: bench-problems
bench-problems: $(STAMP) ## Other equations in 1D and 2D, three seeds each, beside trivial forecasts (ARGS="--only ks1d --seeds 0")
	@PYTHONPATH=tests $(VPY) -m harness.bench.problems $(ARGS)

.PHONY: results
results: $(STAMP) ## Write docs/results.md from the rows that were committed
	@PYTHONPATH=tests $(VPY) -m harness.bench.results

.PHONY: bench-cost
bench-cost: $(STAMP) ## Seconds and memory of a training step for each grid point, in 1D and 2D, as grids grow
	@PYTHONPATH=tests $(VPY) -m harness.bench.cost $(ARGS)

.PHONY: bench-growth
bench-growth: $(STAMP) ## How time and memory grow with trajectories, members, points and tokens
	@PYTHONPATH=tests $(VPY) -m harness.bench.growth $(ARGS)

.PHONY: bench-solvers
bench-solvers: $(STAMP) ## The Burgers solver beside the exact solution of Cole and Hopf
	@PYTHONPATH=tests $(VPY) -m harness.bench.solvers $(ARGS)

.PHONY: bench-calibration
bench-calibration: $(STAMP) ## Ensembles of every candidate sampler beside an operator of equal compute (ARGS="--seeds 0")
	@PYTHONPATH=tests $(VPY) -m harness.bench.calibration $(ARGS)

.PHONY: bench-peers
bench-peers: $(STAMP) ## The operator beside an FNO, a U-Net and a Dil-ResNet at equal CPU seconds (ARGS="--budgets 80 --seeds 0")
	@PYTHONPATH=tests $(VPY) -m harness.bench.peers $(ARGS)

.PHONY: bench-apebench
bench-apebench: $(STAMP) ## KS, KdV and Burgers in APEBench's protocol, beside its published medians (ARGS="--only ks --seeds 0")
	@PYTHONPATH=tests $(VPY) -m harness.bench.apebench $(ARGS)

.PHONY: bench-speed
bench-speed: $(STAMP) ## A trained run beside the solver at the resolution of equal error, and when it has paid (ARGS="runs/a")
	@PYTHONPATH=tests $(VPY) -m harness.bench.speed $(ARGS)

.PHONY: bench-evaluation
bench-evaluation: $(STAMP) ## The full evaluation of a trained run by one process and by two (ARGS="runs/a")
	@PYTHONPATH=tests $(VPY) -m harness.bench.evaluation $(ARGS)

.PHONY: bench-scale
bench-scale: $(STAMP) ## Several processes beside one: the same weights, cost over plain data parallelism, throughput
	@PYTHONPATH=tests $(VPY) -m harness.bench.scale $(ARGS)

.PHONY: gpu-proof
gpu-proof: $(STAMP) ## What is promised on a GPU, tried on one; on the CPU with small networks (PART="stages speed")
	@PYTHONPATH=tests $(VPY) -m harness.gpu $(PART) $(ARGS)

.PHONY: bench-resume
bench-resume: $(STAMP) ## Training throughput with resume saving on and off, in one run
	@PYTHONPATH=tests $(VPY) -m harness.bench.resume $(ARGS)

.PHONY: bench-wandb
bench-wandb: $(STAMP) ## Training throughput and start with W&B online (on loopback), offline and without, in one run
	@PYTHONPATH=tests $(VPY) -m harness.bench.tracking $(ARGS)

.PHONY: bench-flow
bench-flow: $(STAMP) ## What the Prefect flow costs over the same functions in plain Python, in one run
	@PYTHONPATH=tests $(VPY) -m harness.bench.flow $(ARGS)

.PHONY: bench-install
bench-install: $(STAMP) ## What a rented machine fetches whose image has PyTorch, as pip decides it
	@PYTHONPATH=tests $(VPY) -m harness.bench.install $(ARGS)

.PHONY: bench-market
bench-market: $(STAMP) ## What policies pay for a deadline on replayed markets, beside greedy, Uniform Progress and the optimum
	@PYTHONPATH=tests $(VPY) -m harness.bench.market $(ARGS)

.PHONY: same-bits
same-bits: $(STAMP) ## Train and evaluate here and at BASE=<revision>, interrupted and resumed, and compare every bit (CONFIG=...)
	@PYTHONPATH=tests $(VPY) -m harness.bench.same_bits --base $(BASE) --config $(CONFIG) $(ARGS)

.PHONY: bench-start
bench-start: $(STAMP) ## Moves of a request, a start that trains nothing, size of the code: here and at another revision
	@PYTHONPATH=tests $(VPY) -m harness.bench.start $(ARGS)

.PHONY: chaos
chaos: $(STAMP) ## Kill the pipeline N times, restart it, compare (N=1000 by hand)
	@PYTHONPATH=tests $(VPY) -m harness.chaos --kills $(N) $(ARGS)

.PHONY: chaos-enumerate
chaos-enumerate: $(STAMP) ## Crash at every point of every writer, one by one
	@PYTHONPATH=tests $(VPY) -m harness.chaos --kills 0 --pairs 0 --flips 0 --worker-share 0 --enumerate-every 1 $(ARGS)

.PHONY: chaos-uploads
chaos-uploads: $(STAMP) ## Kill tracked runs while they upload to W&B (on loopback); restore each on an empty machine
	@PYTHONPATH=tests $(VPY) -m harness.chaos --kills 0 --pairs 0 --flips 0 --worker-share 0 --uploads 20 $(ARGS)

.PHONY: chaos-ranks
chaos-ranks: $(STAMP) ## Several processes train together: their number changes, and N times one of them is killed
	@PYTHONPATH=tests $(VPY) -m harness.chaos.ranks --kills $(N) $(ARGS)

.PHONY: chaos-sweep
chaos-sweep: $(STAMP) ## A sweep over two workers, N times one of its processes killed: the table of one that is not disturbed
	@PYTHONPATH=tests $(VPY) -m harness.chaos.sweep --kills $(N) $(ARGS)

.PHONY: chaos-retries
chaos-retries: $(STAMP) ## Kill runs of a deployment, its worker and its server; each time another attempt must follow
	@PYTHONPATH=tests $(VPY) -m harness.chaos.retries $(ARGS)

.PHONY: trust
trust: $(STAMP) ## Damage, mixtures, hostile files, cancels, a server that dies: nothing wrong may end well (ARGS="--sample" for minutes)
	@PYTHONPATH=tests $(VPY) -m harness.trust $(ARGS)

.PHONY: trust-server
trust-server: $(STAMP) ## Kill the Prefect server at ten points of a small run, its own and a temporary one; all work must be done
	@PYTHONPATH=tests $(VPY) -m harness.trust.server $(ARGS)

.PHONY: demo-preemption
demo-preemption: $(STAMP) ## Rent two emulated machines; the first is outbid in the middle of a stage; no account, no network
	@PYTHONPATH=tests $(VPY) -m harness.chaos.demo $(ARGS)

.PHONY: chaos-market
chaos-market: $(STAMP) ## Launch on the emulated Vast.ai and RunPod under each of their faults (ARGS="--market vast --only 'outbid*'")
	@PYTHONPATH=tests $(VPY) -m harness.chaos.launch_matrix $(ARGS)

.PHONY: chaos-mutations
chaos-mutations: $(STAMP) ## Switch off each protection in turn; the harness must notice every time
	@PYTHONPATH=tests $(VPY) -m harness.mutations $(ARGS)

.PHONY: constraints
constraints: ## Resolve every dependency anew and write constraints.txt
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	$(PYTHON) -m venv "$$dir/venv"; \
	"$$dir/venv/bin/python" -m pip install --quiet $(ANCHORS) '.[dev]'; \
	"$$dir/venv/bin/python" -m pip check; \
	"$$dir/venv/bin/python" -m pip freeze --exclude ups-pipeline | sed -E 's/\+[A-Za-z0-9.]+$$//' > "$$dir/pins"; \
	if grep -nE '://| @ ' "$$dir/pins"; then echo 'constraints: a pin must be name==version' >&2; exit 1; fi; \
	{ sed '/^[^#]/,$$d' constraints.txt; cat "$$dir/pins"; } > "$$dir/new"; \
	cp "$$dir/new" constraints.txt; \
	git --no-pager diff --stat -- constraints.txt || true

.PHONY: clean
clean: ## Remove the environment and all caches; checkpoints/, reports/ and data/ are kept
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed once, and again only when a dependency changes. A second `make run` installs nothing.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
		echo "ups-pipeline needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
		echo "Name one: make PYTHON=python3.11" >&2; exit 2; }
	@$(VPY) -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo 'Installing the pinned dependencies into .venv (once; a few minutes)'
	@$(VPY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
