# make run: everything on this machine. make test: all checks. Both set up what they need.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# Most of a test's time is waiting for processes: more of them at once than there are cores. TESTS_AT_ONCE=0 for pdb.
TESTS_AT_ONCE ?= 4
JOBS_DIR ?= jobs
LISTS := $(sort $(wildcard $(JOBS_DIR)/*.requirements.txt $(JOBS_DIR)/*.requirements.lock))

# One set-up at a time: two `make` on a fresh clone must not build one .venv together.
LOCKED := $(if $(shell command -v flock),flock .venv.lock)

.PHONY: run reload test lint models clean

run: .venv/ready
	@exec $(BIN)/python -m service up

reload: .venv/ready
	@exec $(BIN)/python -m service up --reload

test: .venv/ready-for-tests .venv/ready-for-models lint
	@$(MAKE) --no-print-directory _pytest

# What fails while others run is told, and runs again alone: only what fails there too is a fault of the code.
.PHONY: _pytest
_pytest:
	$(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile --no-loadscope-reorder $(TESTS) || \
	  { test $$? -eq 1 && $(BIN)/python -m pytest --last-failed --last-failed-no-failures none $(TESTS); }

lint: .venv/ready-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What the models need, 378 MB for those that come with it; `make models M=sales` for one, M="sales eval" for some.
# `make run` does without.
ifdef M
models: .venv/ready
	@$(LOCKED) $(MAKE) --no-print-directory -s _some NAMES="$(M)"
else
models: .venv/ready-for-models
endif

clean:
	rm -rf .venv .venv.lock

.venv/ready: requirements.txt requirements.lock
	@$(LOCKED) $(MAKE) --no-print-directory -s _venv
.venv/ready-for-tests: tests/requirements.txt .venv/ready
	@$(LOCKED) $(MAKE) --no-print-directory -s _tests
.venv/ready-for-models: $(LISTS) .venv/ready
	@$(LOCKED) $(MAKE) --no-print-directory -s _models

# The same again inside the lock: whoever waited for it finds the work done.
.PHONY: _venv _tests _models _some
_venv: .venv/.service
_tests: .venv/.tests
_models: .venv/.models

.venv/.service: requirements.txt requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { echo "error: $(PYTHON) cannot make a virtual environment: install python3-venv" >&2; exit 1; }
	@echo "installing the service into .venv"
	@$(PIP) -r requirements.txt -c requirements.lock
	@touch $@ .venv/ready
.venv/.tests: tests/requirements.txt .venv/.service
	@echo "installing what the tests need into .venv"
	@$(PIP) -r tests/requirements.txt -c requirements.lock
	@touch $@ .venv/ready-for-tests
.venv/.models: $(LISTS) .venv/.service
	@echo "installing what the models need into .venv"
	@$(call install,$(sort $(basename $(basename $(notdir $(LISTS))))))
	@touch $@ .venv/ready-for-models
_some: .venv/.service
	@echo "installing what $(NAMES) needs into .venv"
	@$(call install,$(NAMES))

# A lock is complete, so it is installed as it is; else with what the libraries themselves need, and nothing newer or
# older of the service's own.
install = for name in $(1); do list="$(JOBS_DIR)/$$name.requirements"; \
	  if [ -f "$$list.lock" ]; then $(PIP) --no-deps -r "$$list.lock"; \
	  elif [ -f "$$list.txt" ]; then $(PIP) -r "$$list.txt" -c requirements.lock; \
	  else echo "error: there is no $$list.txt" >&2; false; fi || exit 1; done
