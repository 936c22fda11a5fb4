# Every target does its own set-up, in environments under .venv and .venvs, and needs only make
# and a python3 >= 3.11 with venv. `make help` lists the targets.

PYTHON ?= python3
JOBS ?= 2
PYTEST_ARGS ?=

# What the tests compare with. torch comes first and exactly: whatever depends on it would
# otherwise choose another build of it, several gigabytes of CUDA among them. On Linux,
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
# takes PyTorch's CPU build.
TORCH := torch==2.13.0
JAX := jax==0.10.2
HESSQUIK := hessQuik==0.0.6
FOLX := folx==0.2.30
NEURALFOIL := NeuralFoil==0.3.3
TORCH_INDEX ?=

PIP := -m pip --disable-pip-version-check --quiet install
PACKAGING := pyproject.toml setup.py $(wildcard backends/*.c backends/*.h)
SOURCES := $(shell find hessarray backends -name __pycache__ -prune -o -print)
TREE := build/installed

DEMO := .venv
LINT := .venvs/lint
TEST := .venvs/test
GPU := .venvs/gpu

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu bench bench-gpu bench-pytest lint format types doctest import-contracts clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

# ---------------------------------------------------------------------------------------------
# environments: made once, and again when pyproject.toml or setup.py changes

define make_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "hessarray needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) --version 2>&1):" \
       "call make with PYTHON=/path/to/a/newer/python3" >&2; exit 1; }
@echo "setting up $(1)"
@$(PYTHON) -m venv $(2) $(1)
endef

$(DEMO)/.ready: $(PACKAGING)
	$(call make_venv,$(DEMO),--clear)
	$(DEMO)/bin/python $(PIP) 'setuptools>=77' 'numpy>=2.0'
	$(DEMO)/bin/python $(PIP) --no-build-isolation --editable '.[examples]'
	$(DEMO)/bin/python $(PIP) --no-deps $(NEURALFOIL)
	@touch $@

$(LINT)/.ready: $(PACKAGING)
	$(call make_venv,$(LINT),)
	$(LINT)/bin/python $(PIP) 'setuptools>=77' 'numpy>=2.0'
	$(LINT)/bin/python $(PIP) --no-build-isolation --editable '.[lint]'
	@touch $@

$(TEST)/.ready: $(PACKAGING)
	$(call make_venv,$(TEST),)
	$(TEST)/bin/python $(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
	$(TEST)/bin/python $(PIP) 'setuptools>=77' 'numpy>=2.0' $(TORCH) $(JAX) $(HESSQUIK) $(FOLX)
	$(TEST)/bin/python $(PIP) --no-build-isolation --editable '.[test]'
	$(TEST)/bin/python $(PIP) --no-deps $(NEURALFOIL)
	@touch $@

# Sees the packages of PYTHON, in a virtual environment or not: where torch, JAX or CuPy are there
# they are used as they are. One of them missing and not to be had is listed by the suite itself.
CUDA ?= $(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA[^:]*Version: *\([0-9]*\).*/\1/p')
add_parent := import site, sys; here = site.getsitepackages()[0]; \
  paths = [p for p in sys.argv[1].split(":") if p]; \
  open(here + "/parent.pth", "w").writelines( \
    f"import site; site.addsitedir({p!r})\n" for p in paths)
define gpu_needs
@$(GPU)/bin/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("$(1)") is None)' || \
  $(GPU)/bin/python $(PIP) '$(2)' || echo "$(1) is not there and could not be installed"
endef

$(GPU)/.ready: $(PACKAGING)
	@case '$(CUDA)' in 12|13) ;; *) \
	  echo "no CUDA version found by nvidia-smi (got '$(CUDA)'): call make with CUDA=12 or 13" >&2; \
	  exit 1;; esac
	$(call make_venv,$(GPU),--clear)
	@$(GPU)/bin/python -c '$(add_parent)' "$$($(PYTHON) -c 'import sys; \
	  print(":".join(p for p in sys.path if p.endswith("-packages")))')"
	$(call gpu_needs,torch,$(TORCH))
	$(call gpu_needs,jax,jax[cuda$(CUDA)]$(JAX:jax%=%))
	$(call gpu_needs,cupy,cupy-cuda$(CUDA)x[ctk])
	$(GPU)/bin/python $(PIP) 'setuptools>=77' 'numpy>=2.0'
	$(GPU)/bin/python $(PIP) --no-build-isolation --editable '.[test]'
	$(call gpu_needs,hessQuik,$(HESSQUIK))
	$(call gpu_needs,folx,$(FOLX))
	$(GPU)/bin/python $(PIP) --no-deps $(NEURALFOIL)
	@touch $@

# The package as it is installed, backends/ inside it, for the tools that read files and so do not
# see through an editable install's finder.
$(TREE)/.ready: $(SOURCES) $(LINT)/.ready
	@rm -rf build
	@$(LINT)/bin/python $(PIP) --no-deps --no-build-isolation --target $(TREE) .
	@rm -rf build/lib build/bdist.*
	@touch $@

# ---------------------------------------------------------------------------------------------

## make demo              what the library is for, in a minute: examples/neuralfoil_sweep.py
demo: $(DEMO)/.ready
	$(DEMO)/bin/python examples/neuralfoil_sweep.py $(DEMO_ARGS)

# Two processes on two cores, one BLAS thread each.
## make test              the whole suite (JOBS=2 processes, PYTEST_ARGS=...)
test: $(TEST)/.ready
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 \
	  $(TEST)/bin/pytest -p no:benchmark -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

## make test-gpu          the suite with CuPy and CUDA (PYTHON=..., CUDA=12|13, PYTEST_ARGS=...)
test-gpu: $(GPU)/.ready
	$(cuda_answers)
	$(GPU)/bin/python -m pytest -p no:benchmark $(PYTEST_ARGS)

define cuda_answers
@$(GPU)/bin/python -c 'import sys, cupy; sys.exit(not cupy.is_available())' || { \
  echo "make $@ needs a CUDA device that answers cupy.is_available()" >&2; exit 1; }
endef

## make bench             side by side with peers, written to docs/benchmarks.md (BENCH_ARGS=...)
bench: $(TEST)/.ready
	$(TEST)/bin/hessarray bench --json docs/benchmarks.json --plot docs/benchmarks \
	  --write docs/benchmarks.md $(BENCH_ARGS)

## make bench-gpu         the same on a CUDA device, written to docs/benchmarks-gpu.md
bench-gpu: $(GPU)/.ready
	$(cuda_answers)
	HESSARRAY_CUDA_GRAPHS=1 \
	  $(GPU)/bin/hessarray bench --paper --backend cupy,torch --device cuda \
	  --json docs/benchmarks-gpu.json --plot docs/benchmarks-gpu \
	  --write docs/benchmarks-gpu.md $(BENCH_ARGS)

## make bench-pytest      the same cases one by one, with pytest-benchmark's statistics
bench-pytest: $(TEST)/.ready
	$(TEST)/bin/pytest tests/benchmarks $(PYTEST_ARGS)

## make lint              ruff check, ruff format --check
lint: $(LINT)/.ready
	$(LINT)/bin/ruff check .
	$(LINT)/bin/ruff format --check .

## make format            ruff check --fix, ruff format
format: $(LINT)/.ready
	$(LINT)/bin/ruff check --fix .
	$(LINT)/bin/ruff format .

## make types             mypy --strict on the installed package
types: $(TREE)/.ready
	cd $(TREE) && $(CURDIR)/$(LINT)/bin/mypy --config-file $(CURDIR)/pyproject.toml \
	  --cache-dir $(CURDIR)/.mypy_cache -p hessarray

## make import-contracts  import-linter: which module may import which
import-contracts: $(TREE)/.ready
	cd $(TREE) && $(CURDIR)/$(LINT)/bin/lint-imports --config $(CURDIR)/pyproject.toml --no-cache --no-logo

## make doctest           every example in a docstring
doctest: $(TREE)/.ready $(TEST)/.ready
	cd $(TREE) && $(CURDIR)/$(TEST)/bin/python -m pytest -p no:benchmark -p no:cacheprovider \
	  -c $(CURDIR)/pyproject.toml --rootdir . --doctest-modules \
	  --doctest-ignore-import-errors hessarray
	$(TEST)/bin/pytest -p no:benchmark -p no:cacheprovider --doctest-glob='*.md' README.md docs

## make clean             what the other targets made
clean:
	rm -rf $(DEMO) .venvs build dist *.egg-info .benchmarks .hypothesis .mypy_cache \
	  .pytest_cache .ruff_cache .import_linter_cache
	find hessarray backends tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
