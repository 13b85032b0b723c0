# One command for each thing people do here; `make help` lists them.
PYTHON ?= python3
PORT ?= 8888
export COURSE_PROFILE
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WITH_DOCS := $(VENV)/.installed-docs
# The timeout of a cell is for what hangs; a slow machine is no reason to fail.
PYTEST = COURSE_OFFLINE=1 COURSE_PROFILE=smoke $(BIN)/python -m pytest \
  --nbval-lax --nbval-current-env --nbval-cell-timeout=1200
TABLES := $(shell sed -n 's/^<!-- table \(.*\) -->$$/\1/p' results/README.md)
ROOT_FLAG := $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)

.PHONY: help lab data test lessons lint course site notebooks table clean

help:  ## List the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

lab: $(INSTALLED) data  ## Set up, get the data, open JupyterLab at lesson 1
	$(BIN)/jupyter lab --ip=127.0.0.1 --port=$(PORT) $(ROOT_FLAG) \
	  --LabApp.default_url=/lab/tree/notebooks/01_waveforms_and_spectrograms.ipynb

data: $(INSTALLED)  ## Get FSDD, or a synthetic stand-in when there is no network
	@$(BIN)/python -m course_lib data fetch fsdd --or-stand-in

test: $(INSTALLED)  ## Set up, then run every test and every lesson (without network)
	$(PYTEST) --durations=8 tests notebooks

lessons: $(INSTALLED)  ## Run every lesson as the tests do, in the smallest profile
	$(PYTEST) notebooks

lint: $(INSTALLED)  ## Check style, formatting and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

course: $(INSTALLED) data  ## Execute all lessons and write readable HTML to build/
	$(BIN)/python -m tools.publish --html build

site: $(WITH_DOCS)  ## Build the site from the lessons as they are stored: build/site/index.html
	@$(BIN)/python -m tools.site

notebooks: $(INSTALLED)  ## Execute all lessons on the real data and store them in the committed form
	$(BIN)/python -m tools.publish --publish

table: $(INSTALLED)  ## Write the tables into results/README.md
	@for folder in $(TABLES); do $(BIN)/python -m course_lib table $$folder --update results/README.md || exit 1; done

clean:  ## Remove the environment and everything that can be made again (not the data sets)
	rm -rf $(VENV) build data/cache

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "The course needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV): some minutes the first time (on Linux PyTorch brings about 5 GB of CUDA libraries)."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --editable .
	@touch $(INSTALLED)

$(WITH_DOCS): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.txt --editable ".[docs]" || \
	  { echo "The site needs Sphinx and its theme, which could not be installed; this needs a network once."; exit 1; }
	@touch $(WITH_DOCS)
