# make rehearsal   the whole recipe, two rounds, on a small real model (CPU, within half an hour on two cores)
# make test        what holds the project: style, types, tests
# make bench       time and memory against TRL on this machine, into docs/ (an hour or more on two quiet cores)
# make tools       tool use taught and measured: executed dialogs, SFT, DPO, BFCL before and after (under an hour)
# make knowledge   what a model does not know, found and taught: probe, SFT, DPO, three seeds, held-out facts before and after
# make preferences a reward model on pairs that people marked, held-out parts in turn, with and without edits
# make check       style, spelling and types only
# make assets      fetch the model and data that both need
# make clean       take the environment and the tools' caches away; runs/ and .assets/ stay
#
# PYTHON           which Python makes the environment; by default the first of 3.11 or newer that is found
# pip's own settings hold, such as an index of torch's CPU builds for a machine without a GPU: it spares some gigabytes.
#
# THREADS          CPU threads of each process (OMP_NUM_THREADS); unset leaves the libraries' choice
# ARGS             more for the command, such as ARGS="rounds=1" or ARGS="-k ledger"

VENV := .venv
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

.PHONY: rehearsal test bench tools knowledge preferences check assets bubblewrap chromium clean
.DELETE_ON_ERROR:

rehearsal: assets
	$(BIN)/python recipes/rounds.py recipes/configs/rounds/rehearsal.yaml $(ARGS)

test: check assets bubblewrap chromium
	$(BIN)/python -m pytest $(ARGS)

bench: assets
	$(BIN)/python tests/bench/run.py $(ARGS)

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

# Two runs side by side, a thread each: two seeds took 14 minutes, where one alone with two threads took 12 min 40 s.
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

# SFT on refusals alone; what was asked once serves it too.
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

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

# Programs that tests want besides Python: the sandbox for model-written code, a browser for the raters' page. Installed
# where that needs no question; their tests are skipped without them.
bubblewrap:
	@command -v bwrap >/dev/null || $(call from_apt,bubblewrap,the sandbox)

chromium:
	@command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null \
		|| $(call from_apt,chromium-headless-shell,the raters' page)

define from_apt
{ echo "$(1)    installing it, for $(2)"; \
	if [ "$$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi; \
	$$as_root apt-get install -qq -y --no-install-recommends $(1) >/dev/null 2>&1 \
		|| { $$as_root apt-get update -qq && $$as_root apt-get install -qq -y --no-install-recommends $(1); } >/dev/null 2>&1 \
		|| echo "$(1)    could not be installed: the tests of $(2) are skipped. Mend: apt-get install $(1)"; }
endef

assets: $(STAMP)
	$(BIN)/python -m align.assets

# The exact set first, held to its hashes where it was tested; torch, whose build depends on the machine; then this
# checkout, built with what is installed already. --no-deps throughout: the set is whole, and `pip check` says so.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: wanted Python 3.11 or newer, found none. Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "environment   $(VENV), a minute or two"
	@$(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -c 'import platform as p, sys; sys.exit(not (p.system() == "Linux" and p.machine() in ("x86_64", "aarch64") and sys.version_info < (3, 14)))'; \
		then $(BIN)/pip install -qq --no-deps --require-hashes -r constraints.txt; \
		else echo "environment   the hashes are for another system: by version alone"; \
			sed -e '/--hash/d' -e 's/ *\\$$//' constraints.txt > $(VENV)/versions.txt && $(BIN)/pip install -qq --no-deps -r $(VENV)/versions.txt; fi
	@$(BIN)/pip install -qq torch==$(TORCH_VERSION)
	@$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	@$(BIN)/pip check
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
