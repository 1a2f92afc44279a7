# The pipeline. Targets are the manifests that vouch for each artifact, so what is done is not done again.
#   make all    set up, run everything offline on the playground, print the tables
#   make test   set up, lint, type-check and test
SHELL := /bin/sh
PYTHON ?= python3
SEED ?= 0
RUN ?= runs/playground
JOBS ?= 2

BIN := .venv/bin
TOKALIGN := $(BIN)/tokalign
COMMON = --config configs/playground.toml --seed $(SEED)
# Two processes of one thread each outrun one of two; sft has the machine to itself.
export OMP_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: all pipeline install test test-browser unit lint format data paper ablations soak fuzz clean
.DELETE_ON_ERROR:
.SECONDARY:

all: install
	@$(MAKE) --no-print-directory -j$(JOBS) pipeline
	@$(TOKALIGN) show $(RUN)
	@echo "the same with examples and curves: $(RUN)/report.html"

pipeline: $(RUN)/report.html

# ── the world ────────────────────────────────────────────────────────────────────────────────────────
WORLD := preferences sft prompts heldout test
$(RUN)/world.done: | .venv/.installed
	$(TOKALIGN) playground --out $(RUN) $(COMMON)
	@touch $@
$(WORLD:%=$(RUN)/%/manifest.json): $(RUN)/world.done ;

# ── edits, and a label for every token ───────────────────────────────────────────────────────────────
$(RUN)/edits/manifest.json: $(RUN)/preferences/manifest.json
	$(TOKALIGN) edit $(RUN)/preferences --editor rules --out $(@D) $(COMMON)

$(RUN)/labels/manifest.json: $(RUN)/edits/manifest.json $(RUN)/policy-sft/manifest.json
	$(TOKALIGN) diff $(RUN)/edits --tokenizer $(RUN)/policy-sft --out $(@D) $(COMMON)

# ── the policy that PPO starts from ──────────────────────────────────────────────────────────────────
$(RUN)/policy-sft/manifest.json: $(RUN)/sft/manifest.json
	OMP_NUM_THREADS=2 $(TOKALIGN) train-sft $(RUN)/sft --model tiny --out $(@D) $(COMMON)

# ── reward models: token-level, and the classical one ────────────────────────────────────────────────
$(RUN)/rm-%/manifest.json: $(RUN)/labels/manifest.json $(RUN)/policy-sft/manifest.json
	$(TOKALIGN) train-rm $(RUN)/labels --level $* --model $(RUN)/policy-sft --out $(@D) $(COMMON)

# ── PPO: a reward at every token, and one at the end ─────────────────────────────────────────────────
$(RUN)/ppo-%/manifest.json: $(RUN)/rm-%/manifest.json $(RUN)/prompts/manifest.json $(RUN)/heldout/manifest.json
	$(TOKALIGN) train-ppo $(RUN)/prompts --policy $(RUN)/policy-sft --reward-model $(RUN)/rm-$* \
	  --granularity $* --eval-prompts $(RUN)/heldout --out $(@D) $(COMMON)

# ── the verdict, on prompts that nothing has seen ────────────────────────────────────────────────────
$(RUN)/winrates/manifest.json: $(RUN)/ppo-token/manifest.json $(RUN)/ppo-sequence/manifest.json $(RUN)/test/manifest.json
	OMP_NUM_THREADS=2 $(TOKALIGN) eval-winrate --prompts $(RUN)/test --reference $(RUN)/policy-sft --judge playground \
	  --candidate ppo-sequence=$(RUN)/ppo-sequence --candidate ppo-token=$(RUN)/ppo-token --out $(@D) $(COMMON)

# ── what both reward models say of the same edits, and one page of everything ────────────────────────
$(RUN)/scores-%/manifest.json: $(RUN)/rm-%/manifest.json $(RUN)/edits/manifest.json
	$(TOKALIGN) score $(RUN)/edits --reward-model $(RUN)/rm-$* --limit 32 --out $(@D) $(COMMON)

$(RUN)/report.html: $(RUN)/winrates/manifest.json $(RUN)/scores-token/manifest.json $(RUN)/scores-sequence/manifest.json
	$(TOKALIGN) report $(RUN) --out $@ --fresh

# ── housekeeping ─────────────────────────────────────────────────────────────────────────────────────
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
	$(BIN)/pytest -q -n 2 --dist worksteal -m "not slow"

test: lint
	$(BIN)/pytest -q -n 2 --dist worksteal --durations 25

# Pages in a real browser: Chromium and its driver must be there. `make test` skips these, aloud, where they are not.
test-browser: install
	TOKALIGN_TEST_BROWSER=required $(BIN)/pytest -q -m browser

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The committed samples in data/, from the code as it is.
data: install
	$(BIN)/python -m tests.samples

# The paper's three results on the playground: five seeds, all arms tuned over one grid (see bench/results/paper.py). Resumable.
paper: install
	$(BIN)/python bench/results/paper.py

# What each choice in token-level PPO is worth (see bench/results/ablations.py). Resumable.
ablations: install
	$(BIN)/python bench/results/ablations.py

# Kill 100 runs of each stage at random moments; what they write must be what an undisturbed run writes.
soak: install
	TOKALIGN_TEST_TREES=500 $(BIN)/pytest -q -n 2 tests/test_never_destroy.py
	$(BIN)/python -m tests.soak

# Fifty thousand damaged and hostile files: only errors of ours may come of them. MINUTES=5 ends sooner, SEED=1 differs.
fuzz: install
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),60) --seed $(SEED)

clean:
	rm -rf $(RUN)
