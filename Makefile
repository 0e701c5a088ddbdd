# Everything a newcomer or CI runs. Each target makes its own environment when there is none.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO_ARGS ?=
RESULTS_ARGS ?=
FIGURES := build/figures
SYSTEM_PACKAGES := chromium nginx-light orthanc orthanc-dicomweb libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0

.PHONY: help demo test test-gpu system-packages lint docs faults figure bench results clean
help:
	@echo "make demo    install, then train, predict, evaluate and report on real images (just over a minute on 2 cores, after the installation)"
	@echo "make test    install, then run linters, type checks and every test"
	@echo "make test-gpu  the tests that need an NVIDIA GPU; they are skipped, with the reason, where there is none"
	@echo "make system-packages  a PACS, a browser, a proxy and Pango for the tests (Debian, as root); without them those tests are skipped"
	@echo "make lint    ruff, mypy and the import rules"
	@echo "make docs    write the generated reference pages"
	@echo "make faults  the damage and crash tests at full size; their figures as JSON"
	@echo "make figure NAME=S3  one figure of reliability at its quick size as JSON (NAME='--full S3' for the full one)"
	@echo "make results train every network with one small budget (many hours; it continues); results in docs/networks/results.md"
	@echo "make bench   time the scan and the networks against others (two hours); results in benchmarks/results"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "scanseg needs Python 3.11 or newer; use make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "The venv module is missing. On Debian: apt-get install python3-venv" >&2; exit 2; }

$(VENV)/.core: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt "torch==2.13.0"
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(VENV)/.core
	$(BIN)/scanseg demo $(DEMO_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadfile --durations 25

test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -m gpu -rs tests

# RUNLEVEL=1: nothing that is installed shall start by itself. Never fails: the tests that need these programs say why they are skipped where they cannot be had.
system-packages:
	@if ! command -v apt-get >/dev/null; then echo "system-packages: no apt-get here; going on without $(SYSTEM_PACKAGES)"; \
	elif [ "$$(id -u)" != 0 ]; then echo "system-packages: not root; going on without installing $(SYSTEM_PACKAGES)"; \
	elif dpkg -s $(SYSTEM_PACKAGES) >/dev/null 2>&1; then echo "system-packages: all there"; \
	else { timeout 900 apt-get -qq update && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 timeout 1800 apt-get -qq install -y --no-install-recommends $(SYSTEM_PACKAGES) >/dev/null; } \
		|| echo "system-packages: could not be installed; going on without $(SYSTEM_PACKAGES)"; fi

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py

faults: $(VENV)/.dev
	@rm -rf $(FIGURES)
	@SCANSEG_FAULTS=full SCANSEG_FIGURES=$(FIGURES) $(BIN)/python -m pytest -m faults --timeout 3600; found=$$?; \
		$(BIN)/python tests/figure.py --print $(FIGURES) && exit $$found

figure: $(VENV)/.dev
	@$(BIN)/python tests/figure.py $(NAME)

bench: $(VENV)/.dev
	$(BIN)/scanseg bench scan --shapes all --minutes 60 --call 20 -o benchmarks/results
	$(BIN)/scanseg bench orders --shapes all --minutes 6 -o benchmarks/results
	$(BIN)/scanseg bench growth --minutes 2 -o benchmarks/results
	$(BIN)/scanseg bench network umamba_enc nnunet_resenc --same convolutions --minutes 4 -o benchmarks/results

results: $(VENV)/.dev
	$(BIN)/python benchmarks/networks_results.py $(RESULTS_ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
