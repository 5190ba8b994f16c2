# make rehearsal        the whole recipe, two rounds, on a small real model (CPU, about half an hour on two cores)
# make test             everything that a change must pass: style, spelling, types, all tests (about 17 minutes on two cores)
# make quick            the quick tests alone, for while you work (just under a minute on two cores)
# make check            style, spelling, types, and bandit's search for unsafe code
# make audit            pip-audit: known vulnerabilities of the pinned packages (requires the internet)
# make test-newest      the core tests with the newest release of every dependency, in an environment of its own
# make bench            time and memory against TRL on this machine, into docs/ (an hour or more on two quiet cores)
# make gpu              check one GPU in ten minutes: equal values, speed next to TRL, memory; says so if there is none
# make tools            train tool use and measure it: executed dialogs, SFT, DPO, BFCL before and after (under an hour)
# make knowledge        find what a model does not know and train on it: three seeds, held-out facts before and after
# make preferences      a reward model on pairs that people judged, each part held out in turn, with and without edits
# make killed-rehearsal two rehearsals, one of them killed ten times at random moments: the same bytes (44 minutes on two cores)
# make torture          kill, damage, fill up and attack runs of tiny models; seeds in the output
# make docs             the documentation as a site, in runs/site/; broken links are errors
# make assets           download the model and data that these commands need
# make system-packages  install the programs that some tests need (apt-get): bubblewrap and a headless Chromium
# make clean            delete the environments and the tools' caches; runs/ and .assets/ stay
#
# PYTHON    the Python that makes the environment; default: the first of version 3.11 or newer that is found
# THREADS   CPU threads of each process (OMP_NUM_THREADS); default: what the libraries choose
# ARGS      more arguments for the command, such as ARGS="rounds=1" or ARGS="-k ledger"
#
# pip's own settings are respected. On a machine without a GPU, an index of torch's CPU builds saves some gigabytes.

VENV := .venv
NEWEST := .venv-newest
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
TORCH_VERSION ?= 2.13.0
ARGS ?=

ifndef PYTHON
PYTHON := $(shell for name in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
endif

ifdef THREADS
export OMP_NUM_THREADS := $(THREADS)
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: rehearsal killed-rehearsal torture test quick test-newest docs bench gpu tools knowledge preferences check audit style assets system-packages clean
.DELETE_ON_ERROR:

rehearsal: assets
	$(BIN)/python recipes/rounds.py recipes/configs/rounds/rehearsal.yaml $(ARGS)

# What an interrupted run leaves is compared with a run that was left alone.
killed-rehearsal: assets
	$(BIN)/python tests/bench/killed_rounds.py recipes/configs/rounds/rehearsal.yaml $(ARGS)

torture: assets
	$(BIN)/python tests/torture/run.py $(ARGS)

# Workers with one thread each. A worker is given whole files, the longest first (tests/conftest.py). Three on two cores:
# tests that start processes wait for them. Two for the quick tests, since each worker spends 20 s on imports.
PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest \
	--dist loadfile --no-loadscope-reorder

# mypy and bandit are tests (tests/test_types.py): alone they would leave a core idle.
test: style assets
	$(PYTEST) -n 3 $(ARGS)

quick: $(STAMP)
	$(PYTEST) -n 2 -q $(QUICK) $(ARGS)

QUICK := -m "not slow and not engine and not install and not asset and not types"

# Left out: tests that start several processes, make environments, or open a browser.
test-newest: python
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/pip install -qq --upgrade --upgrade-strategy eager -e ".[dev,bench]"
	$(NEWEST)/bin/pip check
	$(NEWEST)/bin/python -m align.assets
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(NEWEST)/bin/python -m pytest -q -n 2 \
		-m "not engine and not install and not types" --ignore=tests/data_builders/annotation/test_browser.py \
		--ignore=tests/recipes/test_rehearsal.py $(ARGS)
	$(NEWEST)/bin/python tests/versions.py

docs: $(STAMP)
	$(BIN)/pip install -qq -e ".[docs]"
	$(BIN)/mkdocs build --strict

bench: assets
	$(BIN)/python tests/bench/run.py $(ARGS)

# With the torch that is installed: in the environment of this checkout if there is one, else in that of PYTHON.
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.gpu $(ARGS)

tools: assets
	$(BIN)/python recipes/build_data.py recipes/configs/data/tools.yaml
	$(BIN)/python recipes/run_eval.py recipes/configs/run_eval/tools.yaml model.path=.assets/SmolLM2-135M-Instruct \
		output_dir=runs/tools/eval-start limit=100
	$(BIN)/python recipes/sft.py recipes/configs/sft/tools.yaml
	$(BIN)/python recipes/dpo.py recipes/configs/dpo/tools.yaml
	$(BIN)/python recipes/run_eval.py recipes/configs/run_eval/tools.yaml $(ARGS)

KNOWLEDGE := runs/knowledge
KNOWLEDGE_EVAL := $(BIN)/python recipes/run_eval.py recipes/configs/run_eval/knowledge.yaml
KNOWLEDGE_SFT := $(BIN)/python recipes/sft.py recipes/configs/sft/knowledge.yaml
KNOWLEDGE_RUNS := knowledge-0 knowledge-1 knowledge-2 knowledge-refusals
.PHONY: $(KNOWLEDGE_RUNS)

# Two runs at a time with one thread each: two seeds take 14 minutes; one alone with two threads takes 12 min 40 s.
knowledge: assets
	$(BIN)/python recipes/build_data.py recipes/configs/data/probe_questions.yaml
	$(BIN)/python recipes/build_data.py recipes/configs/data/knowledge.yaml
	$(BIN)/python recipes/build_data.py recipes/configs/data/knowledge.yaml output=$(KNOWLEDGE)/probe-heldout \
		knowledge_probe.questions=$(KNOWLEDGE)/questions/questions.heldout.jsonl knowledge_probe.evaluation=[] \
		knowledge_probe.make_rows=false
	$(KNOWLEDGE_EVAL) factuality.baseline=null output_dir=$(KNOWLEDGE)/eval-start
	$(KNOWLEDGE_EVAL) factuality.baseline=null output_dir=$(KNOWLEDGE)/eval-start-dev \
		factuality.questions=$(KNOWLEDGE)/questions/questions.dev.jsonl
	$(MAKE) --jobs=2 THREADS=1 ARGS= $(KNOWLEDGE_RUNS)
	$(BIN)/python recipes/compare_knowledge.py recipes/configs/compare_knowledge/default.yaml $(ARGS)

# One seed each of SFT and DPO.
knowledge-0 knowledge-1 knowledge-2: knowledge-%:
	$(KNOWLEDGE_SFT) training.seed=$* training.output_dir=$(KNOWLEDGE)/sft-$*
	$(BIN)/python recipes/dpo.py recipes/configs/dpo/knowledge.yaml training.seed=$* \
		model.path=$(KNOWLEDGE)/sft-$* training.output_dir=$(KNOWLEDGE)/dpo-$*
	$(KNOWLEDGE_EVAL) model.path=$(KNOWLEDGE)/dpo-$* output_dir=$(KNOWLEDGE)/eval-$*

# SFT on refusals alone, from the answers that were sampled once for all.
knowledge-refusals:
	mkdir -p $(KNOWLEDGE)/refusals && cp -r $(KNOWLEDGE)/probe/units $(KNOWLEDGE)/refusals/
	$(BIN)/python recipes/build_data.py recipes/configs/data/knowledge.yaml output=$(KNOWLEDGE)/refusals \
		knowledge_probe.min_refusal_ratio=0.999 knowledge_probe.max_refusal_ratio_of_pairs=1.0
	$(KNOWLEDGE_SFT) data.path=$(KNOWLEDGE)/refusals/sft.jsonl training.epochs=1 \
		training.output_dir=$(KNOWLEDGE)/sft-refusals
	$(KNOWLEDGE_EVAL) model.path=$(KNOWLEDGE)/sft-refusals output_dir=$(KNOWLEDGE)/eval-refusals

# Each third of the questions is held out once, by a run with a seed of its own.
preferences: assets
	@set -e; for part in 0 1 2; do \
		here=runs/preferences/part-$$part; \
		$(BIN)/python recipes/build_data.py recipes/configs/data/preferences_proof.yaml \
			output=$$here/data judged_answers.heldout_part=$$part; \
		for edits in with_edits without_edits; do \
			$(BIN)/python recipes/reward.py recipes/configs/reward/preferences.yaml training.seed=$$part \
				data.path=$$here/data/preferences.$$edits.jsonl training.output_dir=$$here/$$edits; \
			$(BIN)/python recipes/run_eval.py recipes/configs/run_eval/preferences.yaml \
				reward_model.path=$$here/$$edits reward_accuracy.pairs=$$here/data/preferences.heldout.jsonl \
				output_dir=$$here/eval-$$edits; \
		done; \
		$(BIN)/python recipes/run_eval.py recipes/configs/run_eval/preferences.yaml reward_accuracy.other_prompts=true \
			reward_model.path=$$here/with_edits reward_accuracy.pairs=$$here/data/preferences.heldout.jsonl \
			output_dir=$$here/eval-other_prompts; \
	done
	$(BIN)/python recipes/reward_report.py recipes/configs/reward_report/preferences.yaml $(ARGS)

check: style
	$(BIN)/mypy
	$(BANDIT)

# bandit warns of exceptions that are not needed, also of needed ones: once for each part of a line.
BANDIT := $(BIN)/bandit -q -c pyproject.toml -r align data_builders eval recipes

# torch is not in the constraints, since its build depends on the machine. Packages are looked up, and not installed.
audit: $(STAMP)
	$(BIN)/pip install -qq -e ".[audit]"
	(cat constraints.txt; echo) | sed -e '/--hash/d' -e 's/ *\\$$//' > $(VENV)/audited.txt
	echo "torch==$(TORCH_VERSION)" >> $(VENV)/audited.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)/audited.txt $(ARGS)

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

# Programs that some tests need in addition to Python: the sandbox for model-written code, a browser for the raters' page. Those
# tests are skipped if the programs are missing.
SYSTEM_PACKAGES := bubblewrap chromium-headless-shell
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

system-packages:
	@if command -v bwrap >/dev/null && { command -v chromium-headless-shell || command -v chromium; } >/dev/null; \
		then echo "system packages   already installed: $(SYSTEM_PACKAGES)"; \
		else echo "system packages   installing: $(SYSTEM_PACKAGES)"; \
			$(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install -qq -y --no-install-recommends $(SYSTEM_PACKAGES); fi

assets: $(STAMP)
	$(BIN)/python -m align.assets

# First the pinned set, checked against its hashes on the systems that they are for; then torch, whose build depends on
# the machine; then this checkout, built with what is installed. Always with --no-deps: the set is complete, which
# `pip check` confirms.
$(STAMP): pyproject.toml constraints.txt | python
	@echo "environment   $(VENV), a minute or two"
	@$(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -c 'import platform as p, sys; sys.exit(not (p.system() == "Linux" and p.machine() in ("x86_64", "aarch64") and sys.version_info < (3, 14)))'; \
		then $(BIN)/pip install -qq --no-deps --require-hashes -r constraints.txt; \
		else echo "environment   the hashes are for another system: installing by version"; \
			sed -e '/--hash/d' -e 's/ *\\$$//' constraints.txt > $(VENV)/versions.txt && $(BIN)/pip install -qq --no-deps -r $(VENV)/versions.txt; fi
	@$(BIN)/pip install -qq torch==$(TORCH_VERSION)
	@$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	@$(BIN)/pip check
	@touch $@

.PHONY: python
python:
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is required, but was not found. Install it, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }

clean:
	rm -rf $(VENV) $(NEWEST) .pytest_cache .mypy_cache .ruff_cache *.egg-info
