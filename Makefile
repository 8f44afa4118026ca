# Everything runs from a fresh clone with make and Python 3.11 or later.
# `make test PYTHON=python3.13` uses another interpreter, in its own environment.
PYTHON ?= python3
ENVIRONMENT := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
RUN := $(ENVIRONMENT)/bin/python
INSTALLED := $(ENVIRONMENT)/.installed
# Compilation takes one core; a file's tests share what they compile.
PYTEST := $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: quickstart test test-slow notebooks lint format benchmark results tables \
  docs install clean

quickstart: $(INSTALLED)  ## All three methods on embedded images, 25 minutes.
	$(RUN) -m rsdjax.compare --config configs/rsd/digits.py \
	  --workdir runs/quickstart/rsd --methods none,kd,rsd --seeds 0,1,2
	$(RUN) -m trnr.compare --config configs/trnr/photos.py \
	  --workdir runs/quickstart/trnr --samplings rcs,rbs1 --seeds 0
	$(RUN) -m coic.compare --config configs/coic/photos.py \
	  --workdir runs/quickstart/coic --methods baseline,coic --seeds 0
	$(RUN) -m coic.analysis --weights runs/quickstart/coic/coic_seed0 \
	  --config configs/coic/photos.py --split train \
	  --output runs/quickstart/coic/analysis
	$(RUN) -m rsdjax.analysis --config configs/rsd/digits.py \
	  --config.teacher.checkpoint=runs/quickstart/rsd/teacher/model.safetensors \
	  --checkpoint runs/quickstart/rsd/rsd_seed0 \
	  --output runs/quickstart/rsd/analysis
	$(RUN) -m common.report runs/quickstart/rsd runs/quickstart/trnr \
	  runs/quickstart/coic --output runs/quickstart/report.html

test: $(INSTALLED)  ## The test suite.
	$(PYTEST)

test-slow: $(INSTALLED)  ## The tests that take longer.
	$(PYTEST) -m slow

notebooks: $(INSTALLED)  ## Executes copies of them; RSDJAX_SMOKE=1 makes all small.
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	  cp notebooks/*.ipynb "$$folder" && \
	  $(ENVIRONMENT)/bin/jupyter-execute --kernel_name=python3 "$$folder"/*.ipynb

lint: $(INSTALLED)  ## Formatting, lint and types.
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

format: $(INSTALLED)  ## Formats, and mends what lint can mend.
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

benchmark: .venv-benchmark/.installed  ## Ours and PyTorch in turn, an hour.
	.venv-benchmark/bin/python -m benchmarks.run
	.venv-benchmark/bin/python -m benchmarks.table

# PyTorch has an environment of its own: no test and no run may need it.
.venv-benchmark/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-benchmark
	.venv-benchmark/bin/python -m pip install --quiet torch==2.13.0
	.venv-benchmark/bin/python -m pip install --quiet --editable '.[convert]'
	@touch $@

# `make results EXPERIMENTS='rsd_methods trnr_sizes/images_5'` runs some.
results: $(INSTALLED)  ## The experiments; DATA= and WEIGHTS= name the folders.
	$(RUN) -m results.run $(EXPERIMENTS) --data '$(DATA)' --weights '$(WEIGHTS)'

tables: $(INSTALLED)  ## Tables and figures of README and docs, from the results.
	$(RUN) -m results.tables
	$(RUN) -m benchmarks.table

docs: $(ENVIRONMENT)/.installed-docs  ## HTML in build/docs; a warning is an error.
	$(RUN) -m sphinx -b html -W --keep-going -q docs build/docs

$(ENVIRONMENT)/.installed-docs: $(INSTALLED)
	$(RUN) -m pip install --quiet --editable '.[docs]'
	@touch $@

install: $(INSTALLED)  ## Only the environment.

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rsdjax needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv $(ENVIRONMENT)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:  ## Removes environments and caches, not runs.
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache *.egg-info
