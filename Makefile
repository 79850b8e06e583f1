# Everything a newcomer needs: `make demo` runs the main job, `make test` checks the project.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A process a core, each with one thread: two cores take half of the time of one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal --durations=25

.PHONY: demo notebooks test test-all test-lowest test-modules lint docs bench clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

# The lessons' notebooks from their scripts, with what they say; their data lies in data/ (examples/README.md). Lesson 1 is
# run on tiles whose pictures may be shown.
notebooks: $(STAMP)
	PETS=data/satellite/images $(BIN)/python examples/notebooks/build.py

test: lint
	$(PYTEST)

# The suite with the lowest versions that pyproject.toml allows; ONNX needs a newer torch (docs/after-training.md).
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VENV)-lowest/bin/python -m pip install --quiet --editable ".[wandb,tensorboard,demo,sweep]" --constraint tests/lowest.txt
	$(VENV)-lowest/bin/python -m pip install --quiet "pytest>=8.2" "hypothesis>=6.100" "psutil>=5.9" "scikit-learn>=1.4"
	$(VENV)-lowest/bin/python -m pytest

# Modules of other projects (transformers, peft, torchgeo, lightly), in an environment of their own.
test-modules:
	$(PYTHON) -m venv $(VENV)-modules
	$(VENV)-modules/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VENV)-modules/bin/python -m pip install --quiet --editable ".[streams]" --group modules
	$(VENV)-modules/bin/python -m pytest tests/modules

test-all: lint
	$(PYTEST) -m "slow or not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site, in build/docs; a warning is an error.
docs: $(STAMP)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

# Speed, as docs/performance.md reports it; DATA holds `satellite` and `ants_bees`. Takes hours: see each file's options.
DATA ?= data
bench: $(STAMP)
	$(BIN)/python benchmarks/startup.py --out benchmarks/startup.json
	$(BIN)/python benchmarks/overhead.py --out benchmarks/overhead.json
	$(BIN)/python benchmarks/classes.py --out benchmarks/classes.json
	$(BIN)/python benchmarks/growth.py $(DATA)/satellite/images --out benchmarks/growth.json
	$(BIN)/python benchmarks/parts.py $(DATA) --out benchmarks/parts.json
	$(BIN)/python benchmarks/allocator.py --out benchmarks/allocator.json
	$(BIN)/python benchmarks/range_digits.py run
	$(BIN)/python benchmarks/range_digits.py table
	$(BIN)/python benchmarks/rate.py $(DATA) --out benchmarks/rate.json
	$(BIN)/python benchmarks/predict_rate.py $(DATA) --out benchmarks/predict_rate.json
	$(BIN)/python benchmarks/resizing.py run $(DATA)
	$(BIN)/python benchmarks/resizing.py table
	$(BIN)/python benchmarks/resizing.py plot docs/pictures/resizing.png
	$(BIN)/python benchmarks/recipes.py run $(DATA)
	$(BIN)/python benchmarks/recipes.py table

clean:
	rm -rf $(VENV) demo build dist

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[all]" --group dev
	touch $@
