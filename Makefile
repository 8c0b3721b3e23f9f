# Everything a visitor needs, with nothing but Python 3.11+ and make.
#   make scene   set up and turn the bundled example photos into scene.glb
#   make test    set up and run linters and all but the slowest tests
#   make test-all  also networks of the published size, ONNX files, killed runs
#   make types   type check (needs node, which pyright fetches)
#   make docs    set up and build the pages of docs/ into build/docs

SHELL = bash
PYTHON ?= python3
VENV ?= .venv
EXAMPLE ?= toy
BIN = $(VENV)/bin
# The checkout's folder `datasets` must not hide the Hugging Face package of that name.
export PYTHONSAFEPATH = 1
# Threads that wait asleep do not steal time from the others on a busy machine.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: scene test test-all lint types docs wheel clean

scene: $(VENV)/.product
	$(BIN)/weav3r reconstruct --example $(EXAMPLE) -o scene.glb

test: $(VENV)/.development lint
	$(BIN)/pytest -m "not slow"

test-all: $(VENV)/.development lint
	$(BIN)/pytest

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# The installed package is checked: in the checkout pyright cannot know that the folders are one.
# It is copied first, because pyright skips whatever lies below a hidden folder such as .venv.
types: $(VENV)/.development
	rm -rf build/types && mkdir -p build/types
	cp -R "$$($(BIN)/python -c 'import weav3r; print(weav3r.__path__[0])')" build/types/weav3r
	$(BIN)/pyright --pythonpath $(BIN)/python build/types/weav3r tests

docs: $(VENV)/.development
	$(BIN)/python -m sphinx -q -W --keep-going docs build/docs

wheel: $(VENV)/.development
	rm -rf build dist
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

SOURCES = pyproject.toml constraints.txt $(shell git ls-files '*.py' '*.yaml' 'models/weights/*' 2>/dev/null)

$(VENV)/.product: $(BIN)/python $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt .
	touch $@

$(VENV)/.development: $(BIN)/python $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt ".[dev]"
	touch $@
