# Every target sets up what it needs (see scripts/setup.sh); nothing has to be installed before.
#
#   make train    train on emoji and show what the model finds     make test    run the tests
#   make bench    run the CPU benchmarks                            make lint    style and types
#
# PYTHON=python3.12 picks the interpreter, TORCH=torch==2.11.0 the PyTorch that .venv gets.

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: train test bench lint setup

train: setup
	$(BIN)/clippo train --out runs/emoji --resume

test: setup
	$(BIN)/python -m pytest

bench: export BENCH := 1
bench: setup
	$(BIN)/python -m pytest bench

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy clippo clippo_kernels

setup:
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" sh scripts/setup.sh
