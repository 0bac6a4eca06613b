# Every target sets up what it needs (see scripts/setup.sh); nothing has to be installed before.
#
#   make train        train on emoji and show what the model finds
#   make test         style, types, all but the long tests, and the launch table of sm_90 compiled without a GPU
#   make test-slow    the long tests, and the launch tables of all architectures
#   make test-lowest  the tests of the kernels, and the launch table of sm_90, with the lowest versions that
#                     pyproject.toml allows of all packages; in .venv-lowest, which takes 6 GB
#   make lint         style and types
#   make bench        one CPU benchmark of each subject beside its peers, as one table
#   make bench-all    all CPU benchmarks
#   make docs         the documentation site, in build/site; docs-links follows its links to other sites
#   make fuzz         every parser of files from outside, ten minutes
#   make soak         training, drawing, an index and the page for an hour: do memory and files stay flat?
#   make claims       the runs and measures of docs/claims.md, in hours; it goes on where it was cut off
#
# PYTHON=python3.12 picks the interpreter, TORCH=torch==2.11.0 the PyTorch that .venv gets.
# The lowest versions have wheels for Python 3.11 and 3.12 alone.

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
# A process a core, each with one thread, as the threads of several would wait for one another.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

.PHONY: train test test-slow test-lowest bench bench-all claims docs docs-links fuzz lint setup soak

train: setup
	$(BIN)/clippo train emoji --out runs/emoji --resume

test: export CHROMIUM := 1
test: lint
	$(PYTEST) -m "not long"
	$(BIN)/python -m clippo_kernels.aot --arch sm_90

test-slow: setup
	$(PYTEST) -m long
	$(BIN)/python -m clippo_kernels.aot

test-lowest: export LOWEST := 1
test-lowest: BIN := .venv-lowest/bin
test-lowest: setup
	$(BIN)/python -m clippo_kernels.aot --arch sm_90
	$(PYTEST) -m "not long" tests/clippo_kernels tests/bench/test_tune.py

bench bench-all: export BENCH := 1
# Smaller searches than those of the tables: the whole ones take minutes.
bench: export CLIPPO_BENCH_INDEX := 20000
bench: export CLIPPO_BENCH_RETRIEVAL := 5000
bench: setup
	@mkdir -p .benchmarks
	$(BIN)/python -m pytest bench -m headline --benchmark-quiet --benchmark-json=.benchmarks/headline.json
	$(BIN)/python -m clippo.bench.report .benchmarks/headline.json --summary

bench-all: setup
	$(BIN)/python -m pytest bench

claims: setup
	$(BIN)/clippo data fetch texts
	$(BIN)/clippo data fetch dictionary
	$(BIN)/python -m clippo.bench.studies.claims

fuzz: setup
	$(BIN)/python -m pip install -q "atheris>=3.0"
	$(BIN)/python -m tests.fuzz

soak: setup
	$(BIN)/python -m clippo.bench.studies.soak

docs: setup
	$(BIN)/python -m sphinx -q -W --keep-going docs build/site
	@echo "build/site/index.html"

docs-links: docs
	$(BIN)/python -m sphinx -q -W --keep-going -b linkcheck docs build/links

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy clippo clippo_kernels examples

setup:
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" sh scripts/setup.sh
