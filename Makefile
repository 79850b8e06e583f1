# Everything a newcomer needs: `make demo` runs the main job, `make test` checks the project.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all test-lowest lint docs bench clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: lint
	$(BIN)/python -m pytest

# The suite with the lowest versions that pyproject.toml allows; ONNX needs a newer torch (docs/after-training.md).
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VENV)-lowest/bin/python -m pip install --quiet --editable ".[wandb,tensorboard,demo,sweep]" --constraint tests/lowest.txt
	$(VENV)-lowest/bin/python -m pip install --quiet "pytest>=8.2" "hypothesis>=6.100" "psutil>=5.9" "scikit-learn>=1.4"
	$(VENV)-lowest/bin/python -m pytest

test-all: lint
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: demo test test-all test-lowest lint docs bench clean

clean:
	rm -rf $(VENV) demo build dist

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[all]" --group dev
	touch $@
