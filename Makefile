# Everything runs from a fresh clone with make and Python 3.11 or later.
# `make test PYTHON=python3.13` uses another interpreter, in its own environment.
PYTHON ?= python3
ENVIRONMENT := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
RUN := $(ENVIRONMENT)/bin/python
INSTALLED := $(ENVIRONMENT)/.installed
# Compilation takes one core; a file's tests share what they compile.
PYTEST := $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: quickstart test test-slow lint format install clean

quickstart: $(INSTALLED)  ## Distil a CNN into a ViT on embedded images, 5 minutes.
	$(RUN) -m rsdjax.compare --config configs/rsd/digits.py \
	  --workdir runs/quickstart --methods none,kd,rsd --seeds 0,1,2

test: $(INSTALLED)  ## The test suite.
	$(PYTEST)

test-slow: $(INSTALLED)  ## The tests that take longer.
	$(PYTEST) -m slow

lint: $(INSTALLED)  ## Formatting, lint and types.
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

format: $(INSTALLED)  ## Formats, and mends what lint can mend.
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

install: $(INSTALLED)  ## Only the environment.

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rsdjax needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv $(ENVIRONMENT)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:  ## Removes environments and caches, not runs.
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache *.egg-info
