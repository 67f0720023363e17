# Every target does its own set-up: python3 (3.11 or newer), make and git are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILED := build/compiled
# tests of modules that are not compiled, by the names of their files
UNCOMPILED := doc* cli* sink* bench* sqlalchemy* sql_differential* sql_client* dbapi* logictest* procedures* tidy* snapshot* local* \
	config* compose* site* dashboard* metrics* admin*

.DEFAULT_GOAL := help
.PHONY: help demo test test-all images compiled lint docs bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(READY) ## load 28,000 airports, kill and add replicas, compare all of them; BASE_PORT=7001 chooses ports
	$(BIN)/replicator demo$(if $(BASE_PORT), --base-port $(BASE_PORT))

test: lint ## everything on one real broker of Apache Kafka
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not kafka and not registry and not containers" --no-header -q
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "kafka and not brokers" --no-header -q

test-all: test ## test, the failures of a Kafka of three brokers, a schema registry, and the stack in containers
	$(BIN)/python -m pytest -m "brokers or registry or containers" --no-header -q

images: $(READY) ## build the images of the stack in containers, without an image registry (needs Docker, debootstrap and root)
	tools/images/build

compiled: $(READY) ## build a wheel with compiled modules into dist/, and run their fast tests on it (needs a C compiler)
	rm -rf $(COMPILED) dist && mkdir -p $(COMPILED) dist
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t $(COMPILED)
	cd $(COMPILED) && HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(CURDIR)/$(BIN)/pip wheel --quiet --no-deps --wheel-dir $(CURDIR)/dist .
	rm -rf $(COMPILED)/replicator $(COMPILED)/*.so
	$(BIN)/python -m zipfile -e dist/*.whl $(COMPILED)
	cd $(COMPILED) && EXPECTED_BUILD=compiled PYTHONPATH=. $(CURDIR)/$(BIN)/python -m pytest -n 2 --dist worksteal -m "not kafka and not registry and not containers" $(UNCOMPILED:%=--ignore-glob='tests/test_%') --no-header -q

lint: $(READY) ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(READY) ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(READY) ## measure it next to raw Kafka, raw LMDB and Redis
	$(BIN)/replicator bench

clean: ## remove the files of the other targets
	rm -rf $(VENV) build dist compose/wheels .mypy_cache .ruff_cache .pytest_cache .hypothesis bench.json

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module does not work here (Debian: apt-get install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
