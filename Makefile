# make lab | make app | make test | make fuzz | make reproduce [KEY=marziano2024] | make bench | make clean
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# On Linux the plain torch wheel brings 2.5 GB of CUDA libraries. To avoid them, set TORCH_INDEX to the
# address of PyTorch's CPU wheels (see "Start locally" on the PyTorch site).
TORCH_INDEX ?=
KEY ?=
LAB_FLAGS ?=
APP_FLAGS ?=
PYTEST_FLAGS ?=

VENV ?= .venv
BIN := $(VENV)/bin
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
# 3.11 first: it is the version that constraints.txt was tested with.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	if $$p -c "$(SUPPORTED)" >/dev/null 2>&1; then echo $$p; break; fi; done)
# A selection in PYTEST_FLAGS may leave one of the two runs without a test, which is pytest's exit status 5.
PYTEST := $(BIN)/python -m pytest $(PYTEST_FLAGS)
PIP_INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt

.PHONY: help lab app test fuzz reproduce bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

lab: $(VENV)/.installed ## install, and open JupyterLab on the start notebook
	$(BIN)/jupyter lab $(LAB_FLAGS) notebooks/00_start_here.ipynb

app: $(VENV)/.installed ## install, and open the dashboards as pages without code
	$(BIN)/voila . --Voila.config_file_paths=app $(APP_FLAGS)

test: $(VENV)/.installed-test ## install, then check the style, run every test and every notebook
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST) -n 2 --dist loadfile -m "not notebook and not browser" || [ $$? -eq 5 ]
	$(PYTEST) -n 2 --dist loadfile -m browser || [ $$? -eq 5 ]
	$(PYTEST) -n 2 --maxschedchunk 1 -m notebook || [ $$? -eq 5 ]

fuzz: $(VENV)/.installed-test ## feed the readers 2,000 damaged files
	FUZZ_FILES=2000 $(BIN)/python -m pytest -q -s tests/surveys/test_fuzz.py

reproduce: $(VENV)/.installed ## execute the paper notebooks and compare with the papers (KEY=marziano2024 for one)
	$(BIN)/python -m tools.reproduce $(KEY)

bench: $(VENV)/.installed-bench ## measure the speed beside that of the peers, one JSON object a line
	@$(BIN)/python -m benchmarks.run

clean: ## remove the environment, the results and the caches
	rm -rf $(VENV) results build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(if $(PYTHON),,echo "No Python 3.11, 3.12 or 3.13 was found. Install one, or name it: make lab PYTHON=/path/to/python3.11" >&2; exit 1)
	@$(PYTHON) -c "$(SUPPORTED)" || { echo "spectool needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Could not make $(VENV): is Python's venv module installed (on Debian and Ubuntu: python3-venv)?" >&2; exit 1; }

# torch goes first and alone, so that TORCH_INDEX speaks for nothing else.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	@$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing spectool into $(VENV) (a few minutes the first time)" >&2
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@$(PIP_INSTALL) -e ".[test]"
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	@$(PIP_INSTALL) -e ".[bench]"
	@touch $@
