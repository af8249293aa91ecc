# `make run` and `make test` set everything up by themselves. Only Python >= 3.11 and pip are taken for granted.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Where Python is told not to keep what it compiles, as in images and in CI, each process would compile torch anew.
COMPILED := $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)

.PHONY: setup run test slow faults lint up bench lock clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Torchmill needs Python 3.11 or newer, and there is no '$(PYTHON)'. Install it, or name it: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Torchmill needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Name another: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "Python could not make .venv: see above. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv || { echo "pip could not install uv: is the package registry in reach?"; exit 1; }
	@echo "Setting up .venv from requirements.lock …"
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python $(COMPILED) --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(READY)

run: setup
	@$(BIN)/torchmill train

up: setup
	@$(BIN)/torchmill up

lint: setup
	@$(BIN)/ruff format --check --quiet . || { echo "Run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ty check --quiet || $(BIN)/ty check

# What starts other programs waits for a third of its time, and some of it looks at the clock.
test: lint
	@$(BIN)/pytest -n auto --dist worksteal -m "not services and not slow"
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "services and not slow"

# What takes too long for every day: MNIST in full, servers that die, 50 kills at random moments, statistics over many
# draws, and all instances (networks, data, opsets, corruptions) of tests of which `make test` runs a few.
slow: setup
	@TORCHMILL_KILLS=50 $(BIN)/pytest -m slow

faults: setup
	@TORCHMILL_KILLS=50 $(BIN)/pytest -m slow tests/faults/test_kills.py -s

bench: setup
	@$(BIN)/uv pip install --quiet --python $(BIN)/python $(COMPILED) --require-hashes --no-deps --target .venv-bench -r benchmarks/requirements.lock
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.runtimes

# Versions and hashes for every system and Python; never where they come from.
lock:
	@UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
		--no-emit-index-url --generate-hashes --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf .venv .venv-bench .venv-bench-* .pytest_cache .ruff_cache
