# Two commands: `make demo` and `make test`. Each sets up all it needs, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
SCALE ?= laptop
SEEDS ?= [0, 1, 2]

APP ?= build/app
PORT ?= 8866

.PHONY: help demo test lab app check bench figures readme house clean
help:           ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

demo: $(BIN)/.ok  ## execute notebooks/quickstart.ipynb on real handwritten digits (a few minutes on two cores)
	$(BIN)/alnb run notebooks/quickstart.ipynb -p scale $(SCALE) -p seeds '$(SEEDS)'

test: $(BIN)/.ok  ## the whole test suite, in JOBS=2 processes
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

lab: $(BIN)/.ok  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

app: export ALNB_FOLDER ?= $(FOLDER)
app: $(BIN)/.ok  ## explorer and labeller (of FOLDER=~/pictures) as pages without code, on this machine alone (Voilà)
	@mkdir -p $(APP) && ln -sf $(CURDIR)/notebooks/explore.ipynb $(CURDIR)/notebooks/label.ipynb $(APP)/
	$(BIN)/voila $(APP) --port=$(PORT) --Voila.config_file_paths=notebooks

check: $(BIN)/.ok  ## lint, format of notebooks, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(BIN)/.bench  ## the benchmarks, as a table; also writes benchmarks/results.json
	$(BIN)/python -m benchmarks

figures: $(BIN)/.ok  ## all of figures/ anew, by the sweeps of notebooks/sweeps (an hour and more; DOWNLOAD=true fetches images)
	$(BIN)/alnb sweep notebooks/sweeps/*.yaml $(if $(DOWNLOAD),-p download $(DOWNLOAD))

readme: $(BIN)/.ok  ## README.md's table, figures/README.md and benchmarks/README.md anew, from the results that are there
	$(BIN)/python -m alnb.papers.results
	$(BIN)/python -m benchmarks --readme

house:          ## the structure of alnb/ in numbers beside their bars, into alnb/README.md; fails where a bar is missed
	$(PYTHON) -m benchmarks.house

clean:          ## remove the environment; runs, figures and data stay
	rm -rf $(VENV)

# Debian's python3 may lack ensurepip (package python3-venv): pip then installs into the environment from outside.
$(BIN)/.ok: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "alnb needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV): about 3 GB to fetch, 6 GB on disk, a few minutes without a word, once."
	$(PYTHON) -m venv $(VENV) 2>/dev/null || $(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install -q -c constraints.txt -e '.[test]'
	@touch $@

$(BIN)/.bench: $(BIN)/.ok
	$(PYTHON) -m pip --python $(BIN)/python install -q -c constraints.txt -e '.[test,bench]'
	@touch $@
