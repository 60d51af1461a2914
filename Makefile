# make demo       a virtual environment, the demo data, teacher, student and distilled student, and a table
# make test       a virtual environment and the fast tests (TESTS=tests/heads: some of them)
# make test-all   the same with the slow tests
# make lint       a virtual environment, and the checks of style and types
# make docs       a virtual environment, and the documentation as a site in site/
# make package    the distribution in dist/, checked as the package index does
# make slurm      Debian's Slurm, which some tests want
# Needs Python 3.10 or newer (PYTHON=python3.11), make and a package index. mmcv without compiling: extra `lite`.
# STACK=onedl, behind any of them, takes the maintained forks of MMDetection, MMEngine and MMCV, in .venv-onedl.
# OVER=.venv: that environment finds what it has no own version of (PyTorch) in another one; quicker to install.
PYTHON ?= python3.11
STACK ?= lite
ifeq ($(STACK),lite)
VENV ?= .venv
else
VENV ?= .venv-$(STACK)
endif
BIN := $(VENV)/bin
# Small tensors: one thread a process is fastest, and two processes share the cores.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all lint docs package install slurm clean

# Folder of an environment's packages.
SITE_PACKAGES = $(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
ifdef OVER
	$(call SITE_PACKAGES,$(OVER)) > "$$($(call SITE_PACKAGES,$(VENV)))/zz_over.pth"
endif
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=23'
	$(BIN)/python -m pip install --quiet -e '.[$(STACK),dev]'
# The desktop build of OpenCV needs the system's OpenGL and X11 libraries; the headless one needs nothing.
	$(BIN)/python -m pip uninstall --quiet --yes opencv-python
# Forced: the two share a folder, which went with the desktop build, and pip takes the headless one for installed.
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall 'opencv-python-headless<5'
	touch $@

demo: install
	OMP_NUM_THREADS=2 $(BIN)/python tools/demo.py

lint: install
	PATH="$(CURDIR)/$(BIN):$$PATH" pre-commit run --all-files --show-diff-on-failure

# loadfile: what the tests of a file prepare together is prepared once, not in each process.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --durations 10

test: install
	$(PYTEST) -m 'not slow' $(TESTS)

test-all: install
	$(PYTEST) $(TESTS)

# The extra's packages alone: with the project, pip would bring the desktop build of OpenCV back.
DOCS_PACKAGES := from importlib.metadata import requires; \
	print(*(r.split(";")[0] for r in requires("lad-detection") if "docs" in r.partition(";")[2]), sep="\n")

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -c '$(DOCS_PACKAGES)' > $(VENV)/docs.txt
	$(BIN)/python -m pip install --quiet -r $(VENV)/docs.txt
	touch $@

# Warnings are errors: a link that leads nowhere, a page that nothing leads to.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

package: install
	$(BIN)/python -m pip install --quiet build twine
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*

# For the tests that start a Slurm cluster of one node; as root, on Debian.
slurm:
	tests/slurm/cluster.sh install

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
