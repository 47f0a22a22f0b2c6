# On a new machine with Python >= 3.10, `make trace` and `make test` install all that they need.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# checks types and shapes at every call; the tests then take a third longer
TYPED = --jaxtyping-packages=kedit,probes,beartype.beartype

.PHONY: trace edit test quick cuda docs clean

trace: $(VENV)/installed
	$(RUN) -m experiments.trace_relation $(ARGS)

edit: $(VENV)/installed
	$(RUN) -m experiments.edit_fact $(ARGS)

test: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN)
	$(RUN) -m pytest -q -n 2 --dist loadfile -m "not real and not large" $(TYPED)
	$(RUN) -m pytest -q -n 2 -m real $(TYPED)

quick: $(VENV)/installed
	$(RUN) -m pytest -q -n 2 --dist loadfile

# on a machine with CUDA: results there against the CPU's, and times
cuda: $(VENV)/installed
	$(RUN) -m pytest -q -m cuda tests
	$(RUN) -m benchmarks.cuda $(ARGS)

# the site of the documentation, in build/site; a broken link is an error
docs: $(VENV)/installed
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	rm -rf build/docs && mkdir -p build/docs/figures
	cp -r README.md CHANGELOG.md CONTRIBUTING.md LICENSE CITATION.cff docs build/docs
	cp -r figures/shown build/docs/figures
	cp --parents $$(grep -oh '(\.\./kedit/[^)#]*' docs/*.md | cut -c 5- | sort -u) build/docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[gemma,test]"
	touch $@

clean:
	rm -rf $(VENV)
