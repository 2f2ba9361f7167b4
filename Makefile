# `make demo` and `make test` set up what they need, once, in VENV. In an active conda environment: make demo VENV=$CONDA_PREFIX
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
SCALE ?= laptop
SEEDS ?= [0, 1, 2]

APP ?= build/app
PORT ?= 8866

MINUTES ?= 9
OUT ?= build/loan
PER_GPU ?= 5
LOAN = $(if $(wildcard $(BIN)/.ok),$(BIN)/python,$(PYTHON)) -m benchmarks.loan

.PHONY: help demo test test-fast lab app check bench figures overnight paper paper-bring copies readme house situations clean
help:           ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

demo: $(BIN)/.ok  ## execute notebooks/quickstart.ipynb on real handwritten digits (a few minutes on two cores)
	$(BIN)/alnb run notebooks/quickstart.ipynb -p scale $(SCALE) -p seeds '$(SEEDS)'

test: $(BIN)/.ok  ## all tests, in JOBS=2 processes
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

test-fast: $(BIN)/.ok  ## the tests that take less than two seconds each
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m "not slow"

situations: $(BIN)/.ok  ## the tests of what people do to such tools, and their table, tests/SITUATIONS.md
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m situation --situations

lab: $(BIN)/.ok  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

app: export ALNB_FOLDER ?= $(FOLDER)
app: $(BIN)/.ok  ## explorer and labeller (of FOLDER=~/pictures) as pages without code, on this machine alone (Voilà)
	@mkdir -p $(APP) && ln -sf $(CURDIR)/notebooks/explore.ipynb $(CURDIR)/notebooks/label.ipynb $(APP)/
	$(BIN)/voila $(APP) --port=$(PORT) --Voila.config_file_paths=notebooks

check: $(BIN)/.ok  ## lint, format of notebooks, types, layers, the bars of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m benchmarks.house --check

bench: $(BIN)/.ok  ## the benchmarks, as a table; also writes benchmarks/results.json
	$(BIN)/python -m benchmarks

figures: $(BIN)/.ok  ## all of figures/ anew, by the sweeps of notebooks/sweeps (an hour and more; DOWNLOAD=true fetches images)
	$(BIN)/alnb sweep notebooks/sweeps/*.yaml $(if $(DOWNLOAD),-p download $(DOWNLOAD))

overnight: $(BIN)/.ok  ## the papers' own pools, budgets and cycles with a small net, at low priority: nights on two cores; stop and start at will
	nice -n 19 $(BIN)/alnb sweep notebooks/sweeps/overnight/*.yaml --threads 1 $(if $(TIME),--time-limit $(TIME))

paper:          ## the papers at their own scale, on a GPU: MINUTES=9 OUT=folder; needs neither Jupyter nor an environment (PYTHON=python3)
	PYTHONPATH=. ALNB_OTHER_ENVIRONMENT=1 $(LOAN) work --minutes $(MINUTES) --out $(OUT) --per-gpu $(PER_GPU) $(ARGS)

paper-bring:    ## what `make paper` left in FILE="files or folders", verified, into runs/paper
	PYTHONPATH=. $(LOAN) bring $(FILE)

copies: $(BIN)/.ok  ## the executed notebooks of figures/notebooks anew (half an hour)
	$(BIN)/python -m figures.copies

readme: $(BIN)/.ok  ## README.md's table, figures/README.md and benchmarks/README.md anew, from the results that are there
	$(BIN)/python -m figures.documents
	$(BIN)/python -m benchmarks --readme

house:          ## the structure of alnb/ in numbers beside their bars, into alnb/README.md; fails where a bar is missed
	$(PYTHON) -m benchmarks.house

clean:          ## remove the environment that make set up (none of conda); runs, figures and data stay
	test ! -f $(VENV)/pyvenv.cfg || rm -rf $(VENV)

# Debian's python3 may lack ensurepip (package python3-venv): pip then installs into the environment from outside.
INSTALL = $(PYTHON) -m pip --python $(BIN)/python install --progress-bar on --disable-pip-version-check -c constraints.txt
$(BIN)/.ok: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "alnb needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV), once: about 3 GB to fetch, 6 GB on disk, five minutes; at the end pip unpacks for a minute or two."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null || $(PYTHON) -m venv --without-pip $(VENV)
	$(INSTALL) -e '.[test]'
	@touch $@
