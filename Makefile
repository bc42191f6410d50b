# Two commands for a newcomer: `make demo` and `make test`. Everything lives in .venv; nothing outside is touched
# but the model cache (GNOMON_CACHE, or the user's cache folder).
#
# TORCH chooses the torch to install (a GPU user's own build, say), TORCH_INDEX where it comes from:
#   make demo TORCH_INDEX=<the index of CPU builds>
# JOBS: processes of `make test`, each with one thread; unless given, one a core, at most 8.

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$n -gt 8 ] && echo 8 || echo $$n)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-faults test-ray check bench install fetch clean help

help:
	@echo "make demo   install, fetch SmolLM2-135M, run examples/demo.yaml, write studies/demo/report.html"
	@echo "make test   install, then every test"
	@echo "make test-faults  the long fault tests: hundreds of kills, full disks, double starts"
	@echo "make test-ray     install the extra ray, then its tests on clusters of two and three nodes"
	@echo "make check  ruff and pyright"
	@echo "make bench  every benchmark; exit 1 when a goal is missed"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0) if sys.version_info >= (3, 11) else sys.exit("gnomon needs Python >= 3.11, but " + sys.executable + " is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 demo")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "no venv module: on Debian or Ubuntu, apt install python3-venv"; exit 1; }
	@$(BIN)/python -c 'import torch' 2>/dev/null || { echo "installing $(TORCH)"; $(BIN)/python -m pip install -q --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"; }
	@echo "installing gnomon and its dependencies under constraints.txt"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

install: $(STAMP)

fetch: $(STAMP)
	@$(BIN)/python -c "import gnomon; gnomon.load_model('smollm2-135m', check=False)"

demo: $(STAMP)
	@$(BIN)/gnomon demo

test: $(STAMP)
	@$(MAKE) -s fetch
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-faults: $(STAMP)
	@$(MAKE) -s fetch
	@$(BIN)/python -m pytest -n $(JOBS) -m faults --timeout 1800

test-ray: $(STAMP)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,ray]"
	@$(BIN)/python -m pytest -m ray --timeout 600

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) studies .pytest_cache .ruff_cache
