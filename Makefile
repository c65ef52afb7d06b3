# Each target does all of its set-up on a fresh machine; Python 3.11 or newer, make and git are enough.
#
#   make demo     the main job: train, prune and fine-tune ResNet-56 on handwritten digits, about a minute on a CPU
#   make test     the tests (SLOW=1: the slow ones too)
#   make lint     ruff            make types   mypy            make bench   timings, see scripts/bench.py
#   make clean    remove the virtual environment and the caches; results in outputs/ stay
#
# PRUNEBENCH_DATA names the folder of data sets; tests and timings that need one take ../shared/data if it exists
# and skip what is absent otherwise. PIP_FLAGS are passed to pip, PYTEST_FLAGS to pytest, BENCH_FLAGS to bench.py.

VENV ?= .venv
BIN := $(VENV)/bin
PIP_FLAGS ?=
PYTEST_FLAGS ?=
BENCH_FLAGS ?=

# Only a path is given here; data sets themselves never lie in this repository.
ifndef PRUNEBENCH_DATA
ifneq ($(wildcard ../shared/data/.),)
export PRUNEBENCH_DATA := $(abspath ../shared/data)
endif
endif
PRUNEBENCH_OUTPUTS ?= outputs

.PHONY: demo test lint types bench clean

demo: $(VENV)/.installed
	$(BIN)/python -m prunebench method=fpgm model=resnet56
	@echo "result: $$(ls -t $(PRUNEBENCH_OUTPUTS)/runs/fpgm-resnet56-digits/*/*/result.json | head -n 1)"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist loadfile $(if $(SLOW),-m "slow or not slow") $(PYTEST_FLAGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python scripts/bench.py $(BENCH_FLAGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find prunebench tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp inside the virtual environment: set-up is done once, and again when the versions asked for change.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev,peers]'
	@touch $@ $(VENV)/.installed

# The first interpreter that is new enough; a name on the PATH may be an older Python or a launcher without one.
$(BIN)/python:
	@for python in python3.11 python3 python3.12 python3.13 python; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "$$python -m venv $(VENV)"; \
	        $$python -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; exit 0; \
	    fi; \
	done; echo "prunebench needs Python 3.11 or newer; none was found on the PATH" >&2; exit 1
