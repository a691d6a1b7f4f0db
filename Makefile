# make demo   the whole story on embedded data, offline      make test    every test
# make check  what has to hold before a change lands         make clean   remove the environment
# make soak   the fuzz tests in their long form            make docs   the documentation site, in site/
PYTHON ?= python3
BIN := .venv/bin
CHECKED := angularkd.losses,angularkd.features,angularkd.models,angularkd.data,angularkd.metrics
SHAPED := tests/losses tests/features tests/models tests/data tests/metrics
# The newest part of an installation; older than what decides it, it is made again.
INSTALLED := .venv/installed

.PHONY: demo test shapes soak lightning docs check format lint types install clean

demo: $(INSTALLED)
	$(BIN)/angularkd demo

# Twice: the rooms of tensors with the shapes in their signatures checked, and all code as it ships (checked code cannot be compiled).
test: shapes $(INSTALLED)
	$(BIN)/python -m pytest -q -n auto

shapes: $(INSTALLED)
	$(BIN)/python -m pytest -q -n auto --jaxtyping-packages=$(CHECKED),shape_checker.check $(SHAPED)

# Hours: damaged files and generated command lines by the thousand, runs killed at random moments, of which the tests try some.
soak: $(INSTALLED)
	ANGULARKD_SOAK=1 $(BIN)/python -m pytest -q -n auto tests/fuzz

# What is tested beside Lightning, in an environment of its own: where torchmetrics is installed, which Lightning needs, lightning_fabric
# imports it in every process, with all that it imports in turn.
lightning: $(INSTALLED)
	test -x .venv-lightning/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python .venv-lightning
	$(BIN)/uv pip install --quiet --python .venv-lightning/bin/python --constraint constraints.txt --editable '.[dev,lightning]'
	.venv-lightning/bin/python -m pytest -q tests/test_loops.py tests/metrics/test_classes.py tests/metrics/test_calibration.py

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

check: lint types test

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-lightning
