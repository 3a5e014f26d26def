# Everything a person needs, by name. Tools' settings are in pyproject.toml.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup run test check format generate bench bench-analytics fuzz images cluster-up cluster-down lock clean

BIN := .venv/bin
AS_ROOT := scripts/as-root.sh
IMAGES := operator analytics sensor nats
BPF_SOURCES = find bpf \( -name '*.c' -o -name '*.h' \) ! -name '*.gen.h' -print0
ARGS ?=

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing: apt packages (as root or by sudo) and .venv
	@scripts/setup.sh

run: setup ## start everything on this machine with the example policy, and the live view (ARGS="--for 60 -o plain")
	@$(AS_ROOT) $(BIN)/daemoneye run --policy examples/one-machine/policy.yaml $(ARGS)

test: setup check ## the checks and all tests, as root where that is possible (ARGS="-k spool")
	@scripts/setup.sh tests
	@# Builds of a new machine take longer than any test may; with ARGS each comes when a test asks for it.
	@cd "$(CURDIR)" && if [[ -z "$(ARGS)" ]]; then $(AS_ROOT) $(BIN)/python -m tests.cluster.prebuild; fi
	@cd "$(CURDIR)" && $(AS_ROOT) $(BIN)/python -m tests.run $(ARGS)

check: setup ## the static half: lint, format, types, layers, C format, generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BPF_SOURCES) | xargs -0 -r $(BIN)/clang-format --dry-run -Werror
	$(BIN)/python -m daemoneye.codegen --check
	$(BIN)/python -m daemoneye_operator.codegen --check
	$(BIN)/python -m daemoneye_analytics.codegen --check

format: setup ## rewrite Python and C in the project's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BPF_SOURCES) | xargs -0 -r $(BIN)/clang-format -i

generate: setup ## rewrite the generated files (events.gen.h, reference docs)
	$(BIN)/python -m daemoneye.codegen
	$(BIN)/python -m daemoneye_operator.codegen
	$(BIN)/python -m daemoneye_analytics.codegen

bench: setup ## measure against other agents, see docs (ARGS go to tests/bench/run.py)
	cd "$(CURDIR)" && $(AS_ROOT) $(BIN)/python tests/bench/run.py $(ARGS)

bench-analytics: setup ## measure the behavioural analyser on the recorded corpus (ARGS="--only dev masquerade -o FILE")
	@cd "$(CURDIR)" && $(BIN)/python -m tests.bench.behaviour $(ARGS)

fuzz: setup ## the property tests at length, and atheris for ten minutes on every decoder (ARGS="--seconds 60 dns http")
	@scripts/setup.sh fuzz
	$(BIN)/python -m tests.fuzz.run $(ARGS)

images: ## build the container images and print their sizes (as root; ARGS="operator nats", see docs/images.md)
	@$(AS_ROOT) scripts/images.sh --size $(ARGS)

cluster-up: setup ## a Kubernetes of one node on this machine, for trying things (as root; see tests/cluster/README.md)
	@scripts/setup.sh tests
	@cd "$(CURDIR)" && $(AS_ROOT) $(BIN)/python -m tests.cluster.harness up $(ARGS)

cluster-down: ## remove it without a trace
	@cd "$(CURDIR)" && $(AS_ROOT) $(BIN)/python -m tests.cluster.harness down $(ARGS)

# Only names, versions and hashes may stand in the result (tests/unit/test_workspace.py).
UV_COMPILE = cd requirements && ../$(BIN)/uv --no-config pip compile --quiet --generate-hashes --python-version 3.11 \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
lock: setup ## lock requirements/*.in again (ARGS=--upgrade, ARGS="--upgrade-package NAME")
	$(UV_COMPILE) $(ARGS) runtime.in -o runtime.txt
	$(UV_COMPILE) $(ARGS) -c runtime.txt dev.in -o dev.txt
	$(UV_COMPILE) $(ARGS) fuzz.in -o fuzz.txt
	for image in $(IMAGES); do ($(UV_COMPILE) $(ARGS) "image-$$image.in" -o "image-$$image.txt"); done
	$(UV_COMPILE) bootstrap.in -o bootstrap.txt

clean: ## remove environment, caches and build products
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* htmlcov */dist */build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
