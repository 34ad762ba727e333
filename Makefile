# Every target sets up what it needs, so each works in a fresh clone with Python 3.11 or newer.
PYTHON ?= python3
TRACES ?= figures/data/sample_traces.jsonl
RUN ?= runs/traces
SEEDS ?= 1
ARMS ?= hindsight_sft reflective_sft filtered_sft grpo

MORE := removed_lacks_awareness control_lacks_awareness removed_strong_vacillation control_strong_vacillation removed_rule_check control_rule_check rlvr_mixed_0_01 rlvr_mixed_0_16 verified_sft

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: figures methods methods-more traces paper test check lab bench clean

# The first figures need no torch, so they are there before it is. Ctrl-C ends with the experiment's own line.
figures: runs/figures/committed/.drawn .venv/figures  ## the main job: trains the pocket experiment's arms and draws every figure; SEEDS=5 and ARMS="..." take more
	@trap : INT; $(BIN)/python -m trainers.pocket.experiment -o runs/pocket --figures runs/figures/pocket --seeds $(SEEDS) --arms $(ARMS) \
		--meanwhile 'runs/figures/real=$(BIN)/cotlens figures figures/data/real -o runs/figures/real' \
		--meanwhile 'runs/figures/self_jailbreak=$(BIN)/cotlens figures figures/data/self_jailbreak -o runs/figures/self_jailbreak' \
		--meanwhile 'runs/notebooks=$(BIN)/python notebooks/build.py -o runs/notebooks' \
		|| { code=$$?; test $$code = 130 || exit $$code; kill -INT $$PPID; }

runs/figures/committed/.drawn: figures/data/pocket/study.json | .venv/core
	@$(BIN)/cotlens figures figures/data/pocket -o runs/figures/committed > /dev/null
	@echo "first figures: runs/figures/committed; they are the committed study's, not this run's"
	@touch $@

methods: .venv/figures  ## the arms of other papers' methods next to those they are compared with, and what they make of changed thoughts
	@echo "about 100 minutes a seed on two cores; kill it and call it again, and it goes on"
	$(BIN)/python -m trainers.pocket.experiment -o runs/pocket --figures runs/figures/pocket --seeds $(SEEDS) --methods
	for seed in $$(seq 0 $$(($(SEEDS) - 1))); do $(BIN)/python -m trainers.pocket.interventions runs/pocket --seed $$seed && $(BIN)/python -m trainers.pocket.outcomes runs/pocket --seed $$seed || exit 1; done
	$(BIN)/python -m trainers.pocket.experiment -o runs/pocket --figures runs/figures/pocket --only report

methods-more: methods  ## one seed of rows with a risky pattern taken out, of the sweep of the KL term, and of own right samples
	$(BIN)/python -m trainers.pocket.experiment -o runs/pocket --figures runs/figures/pocket --seed 0 --arms $(MORE)
	$(BIN)/python -m trainers.pocket.outcomes runs/pocket --seed 0
	$(BIN)/python -m trainers.pocket.experiment -o runs/pocket --figures runs/figures/pocket --only report

paper: .venv/figures  ## rebuilds the committed figures from figures/data, and fails where a number changed
	$(BIN)/cotlens figures figures/data/real -o figures/real
	$(BIN)/cotlens figures figures/data/self_jailbreak -o figures/self_jailbreak
	$(BIN)/python -m trainers.pocket.report figures/data/pocket -o figures/pocket
	$(BIN)/python -m trainers.pocket.report figures/data/pocket_methods -o figures/pocket_methods
	$(BIN)/python -m trainers.pocket.report figures/data/pocket_nine -o figures/pocket_nine
	@git diff --stat --exit-code -- 'figures/*.csv' || { echo "numbers of the committed figures changed"; exit 1; }

traces: .venv/core  ## your own traces to figures: TRACES="PATH..." takes any supported files
	$(BIN)/cotlens analyze $(TRACES) -o $(RUN) --force
	$(BIN)/cotlens figures $(RUN) -o $(RUN)-figures

test: .venv/dev
	$(BIN)/python -m pytest cotlens tests

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

lab: .venv/dev
	$(BIN)/jupyter lab --notebook-dir=notebooks

bench: .venv/bench
	$(BIN)/python benchmarks/text.py
	$(BIN)/python benchmarks/entropy.py
	$(BIN)/python benchmarks/guard.py
	$(BIN)/python benchmarks/pocket.py
	$(BIN)/python benchmarks/view.py
	$(BIN)/python benchmarks/scale.py

clean:  ## runs of your own stay
	rm -rf .venv runs/pocket runs/figures runs/notebooks build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/core: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable .
	touch $@

# torch first and by its exact version: the CPU build, before another package asks for any torch at all.
.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) $$(grep '^torch==' constraints.txt)
	$(PIP) --editable '.[dev]'
	touch $@ .venv/core .venv/figures

.venv/figures: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) $$(grep '^torch==' constraints.txt)
	$(PIP) --editable '.[train,notebooks]'
	touch $@ .venv/core

.venv/bench: .venv/dev
	$(PIP) --editable '.[bench]'
	touch $@
