# make run    install into .venv and run the main job
# make test   everything CI runs: lint, types, tests on three huggingface_hub lines, the wheel
# make lint   ruff and mypy
# make docs   write the generated pages again

PYTHON ?= python3
VENV ?= .venv
REPO ?= mistralai/Mistral-7B-v0.1
PYTEST_ARGS ?=

BIN := $(VENV)/bin
LEGS := 0.36 1

.PHONY: run test lint docs legs pytest clean $(LEGS:%=leg-%)
.DELETE_ON_ERROR:

run: $(VENV)/.installed
	@$(BIN)/python tools/run.py $(REPO)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What talks to a Hub or to the database, on the older lines: huggingface_hub 0.36 (requests) with SQLAlchemy 2.0,
# and 1.x (httpx).
legs: $(LEGS:%=leg-%)

leg-0.36: TESTS = tests/hub tests/store tests/cli/test_end_to_end.py
leg-1: TESTS = tests/hub tests/cli/test_end_to_end.py

$(VENV)-hub0.36/.installed: PINS = 'huggingface_hub==0.36.*' 'sqlalchemy==2.0.*'
$(VENV)-hub1/.installed: PINS = 'huggingface_hub==1.*'

$(VENV)-hub%/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-hub$*
	$(VENV)-hub$*/bin/python -m pip install --quiet --editable '.[test]' $(PINS)
	@touch $@

$(LEGS:%=leg-%): leg-%: $(VENV)-hub%/.installed
	@echo "== huggingface_hub $* =="
	$(VENV)-hub$*/bin/python -m pytest -q $(TESTS) $(PYTEST_ARGS)

pytest: $(VENV)/.dev
	$(BIN)/python -m pytest tests $(PYTEST_ARGS)

# One after the other, and pytest last: its closing line ends the log.
test:
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory legs
	@$(MAKE) --no-print-directory pytest

docs: $(VENV)/.dev
	$(BIN)/python -m hubvram.cli.reference docs/cli.md
	$(BIN)/python -m hubvram.store.schema_doc > docs/schema.md
	$(BIN)/python -m hubvram.plan.methods.doc
	$(BIN)/python -m hubvram.plan.optimizers.doc
	$(BIN)/python -m hubvram.guide
	$(BIN)/python -m hubvram.accuracy.doc
	$(BIN)/python tools/hub.py
	$(BIN)/python tools/readme.py

clean:
	rm -rf $(VENV) $(LEGS:%=$(VENV)-hub%) build dist hubvram.egg-info
