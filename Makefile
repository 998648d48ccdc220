# `make lab` sets up and opens JupyterLab; `make test` sets up and runs everything. `make help` lists the rest.
VENV := .venv
BIN := $(VENV)/bin
# How many processes the tests use.
JOBS := 2
# The folder JupyterLab serves, and options for it, as in: make lab LAB_ARGS="--no-browser --port=9000"
LAB_ROOT := $(CURDIR)
LAB_ARGS :=
BENCH := early-exit
BOOK := book/_out

export OMP_NUM_THREADS ?= 1

# What pytest writes about the notebooks, for the table of their times.
REPORTS := build/notebooks
NBVAL := $(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=180 -q -n $(JOBS) --dist loadscope

.PHONY: help install lab test check test-units test-notebooks test-book book bench format clean
.NOTPARALLEL:

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do printf '  make %-15s %s\n' "$$name" "$$text"; done

install: $(VENV)/.installed  ## set up the environment in .venv (nothing to do a second time)

$(VENV)/.installed: pyproject.toml constraints.txt .ci/environment
	.ci/environment $(VENV)
	$(BIN)/uv pip install --python $(VENV) -c constraints.txt -e '.[test]'
	@# JupyterLab is not to ask whether it may fetch news.
	$(BIN)/jupyter labextension disable --level=sys_prefix @jupyterlab/apputils-extension:announcements
	@touch $@

$(VENV)/.system-packages: .ci/system-packages
	@.ci/system-packages
	@mkdir -p $(VENV) && touch $@

lab: install  ## open JupyterLab at the start page
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir='$(LAB_ROOT)' \
	  --LabApp.default_url=/lab/tree/notebooks/start/paths.ipynb --LabApp.news_url= \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(LAB_ARGS)

test: install $(VENV)/.system-packages check test-units test-notebooks test-book  ## run everything: what CI runs
	@echo "make test: all phases passed"

check: install  ## style, types, and which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-units: install  ## unit tests and the examples in docstrings
	$(BIN)/python -m pytest tests course_lib --doctest-modules -n $(JOBS) --ignore=tests/browser --ignore=tests/test_book.py

test-notebooks: export COURSE_HOME = $(CURDIR)/build/home
test-notebooks: install  ## solutions (strict), exercises (unsolved) and chapters, every output compared
	@rm -rf $(REPORTS)
	COURSE_STRICT=1 $(NBVAL) --junit-xml=$(REPORTS)/solutions.xml solutions
	$(NBVAL) --junit-xml=$(REPORTS)/exercises.xml exercises
	$(NBVAL) --junit-xml=$(REPORTS)/chapters.xml notebooks
	@$(BIN)/python .ci/notebook_times.py $(REPORTS)

test-book: book  ## the built book and JupyterLab, in a real browser
	$(BIN)/python -m pytest tests/test_book.py tests/browser

# A failed build forgets what it has read: Sphinx warns about a page once only, and the next build would pass.
book: install  ## build the book into book/_out/_build/html
	$(BIN)/jupyter-book build . --config book/_config.yml --toc book/_toc.yml --path-output $(BOOK) -W --keep-going \
	  || { rm -rf $(BOOK)/_build/.doctrees; exit 1; }

bench: install  ## measure, and compare with the goals (BENCH=name)
	$(BIN)/python -m course_lib.bench $(BENCH) --check

format: install  ## mend the style of the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what was generated; the environment stays
	rm -rf build dist $(BOOK) bench-results .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find course_lib tests notebooks solutions exercises -name __pycache__ -prune -exec rm -rf {} +
