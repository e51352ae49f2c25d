# Every target makes its own environment: only Python 3.11, pip and make are needed.
PYTHON ?= python3
VENV := .venv
BENCH := .venv-bench
DOCS := .venv-docs
BIN := $(VENV)/bin
CORES ?= 2
# Debian packages for `make paper`.
TEX := --no-install-recommends latexmk lmodern texlive-latex-recommended texlive-latex-extra texlive-fonts-recommended
# No test touches the network; two workers with one thread each are faster than one with two on small models.
TEST_ENV := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: reproduce test test-types test-kernels newcomer trust lint format bench peers-test study paper tex notebooks importable docs clean

# The main job: environment, default model and data, every claim, small fine-tuning arms, results/quick/report.html.
reproduce: $(VENV)/ready
	$(BIN)/python -m experiments.quick
	$(BIN)/python -m analysis.report results/quick

test: $(VENV)/ready
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --durations=10

# Shapes and types of arguments and results, checked at every call: on tests that enter each room's functions a few times,
# since the checks double the time of those that repeat draws by the hundred.
TYPED := core noise norms data models $(addprefix curvature/test_,taylor_rules.py size.py pooled.py routing.py bad_losses.py \
	dynamic.py density.py block_lanczos.py sequential.py tokens.py) $(addprefix training/test_,attach.py pairs.py trackers.py)
test-types: $(VENV)/ready
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --jaxtyping-packages=symnoise,tests.typechecked.checked $(addprefix tests/,$(TYPED))

# The tests against published results, under another BLAS kernel and vector width than this processor's own.
KERNELS := OPENBLAS_CORETYPE=Haswell ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE
test-kernels: $(VENV)/ready
	$(KERNELS) $(TEST_ENV) $(BIN)/python -m pytest -n 2 tests/analysis/test_published_studies.py tests/analysis/test_paper.py tests/theory tests/test_readme.py

# The wheel in a fresh environment, and what the README says, as a newcomer would do it; needs a package index.
newcomer: $(VENV)/ready
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m newcomer -x -s -n 0 tests/newcomer

# Mutants, kills, bad input and the coverage of intervals, an hour: docs/trust.md. PART=inputs for one of the four.
trust: $(VENV)/ready
	$(TEST_ENV) $(BIN)/python -m tests.trust $(PART)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Speed and memory: ratios to a forward pass, comparison with peers, growth, the cost of noise in training, probes along
# training; tables and a figure in results/bench. Stopped, it goes on from the rows that it has measured.
bench: $(BENCH)/ready
	$(BENCH)/bin/python -m experiments.bench
	$(BENCH)/bin/python -m analysis.figures results/bench
	$(BENCH)/bin/python -m experiments.bench.training
	$(BENCH)/bin/python -m experiments.bench.decoding
	$(BENCH)/bin/python -m experiments.bench.changes

# The tests that compare symnoise with its peers, in the environment that has them.
peers-test: $(BENCH)/ready
	$(TEST_ENV) $(BENCH)/bin/python -m pytest tests/experiments/test_bench_peers.py

$(VENV)/ready: requirements.txt requirements-bundled.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps -r requirements-bundled.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	@$(MAKE) --no-print-directory importable
	@touch $@

# The clone on the environment's path, so that notebooks import `analysis` wherever Jupyter starts their kernel.
PTH := import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'symnoise-clone.pth').write_text('$(CURDIR)')
importable:
	@$(BIN)/python -c "$(PTH)"

$(BENCH)/ready: requirements.txt requirements-bundled.txt requirements-bench.txt pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet -r requirements.txt
	$(BENCH)/bin/pip install --quiet --no-deps -r requirements-bundled.txt -r requirements-bench.txt
	$(BENCH)/bin/pip install --quiet --no-deps --editable .
	@touch $@

# The fine-tuning study: make study STUDY=micro, with DATA=alpaca.jsonl for a local file instead of the data set.
STUDY ?= micro-smoke
study: $(VENV)/ready
	$(BIN)/snakemake --snakefile experiments/Snakefile --cores $(CORES) --keep-going --rerun-incomplete \
		--config study=experiments/configs/studies/$(STUDY).yaml python=$(BIN)/python $(if $(DATA),data=$(DATA)) \
		$(if $(TASKS),tasks=$(TASKS))

# The paper from the published results: paper/generated, then paper/build/main.pdf; fails on undefined references and wide boxes.
paper: $(VENV)/ready
	@command -v latexmk > /dev/null || { echo "make paper needs TeX: make tex, as root" >&2; exit 2; }
	$(BIN)/python -m analysis.paper
	cd paper && latexmk
	$(BIN)/python -m analysis.paper paper/build/main.log

# TeX for `make paper`, on Debian and its derivatives, as root.
tex:
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq $(TEX)

# Every notebook from top to bottom, each in a fresh kernel; stored with its outputs. ONLY=02 for one.
notebooks: $(VENV)/ready importable
	$(BIN)/python -m analysis.notebooks $(ONLY)

# The site with guides, theory, gallery, notebooks and reference, built in an environment of its own: site/index.html.
docs: $(VENV)/ready $(DOCS)/ready
	$(BIN)/python -m analysis.gallery
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

$(DOCS)/ready: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet -r requirements-docs.txt
	@touch $@

clean:
	rm -rf $(VENV) $(BENCH) $(DOCS) site runs results/quick results/bench results/spectra docs/gallery paper/build
