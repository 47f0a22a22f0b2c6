# On a new machine with Python >= 3.10, `make trace` and `make test` install all that they need.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# checks types and shapes at every call; the tests then take a third longer, so the quick ones only
TYPED = --jaxtyping-packages=kedit,probes,beartype.beartype

.PHONY: trace edit test quick cuda docs release-check clean

trace: $(VENV)/installed
	$(RUN) -m experiments.trace_relation $(ARGS)

edit: $(VENV)/installed
	$(RUN) -m experiments.edit_fact $(ARGS)

test: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN)
	$(RUN) -m pytest -q -n 2 --dist loadfile $(TYPED)
	$(RUN) -m pytest -q -n 2 --dist loadfile -m "slow and not real and not large and not faults"
	$(RUN) -m pytest -q -n 2 -m real

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
	cp -r README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE CITATION.cff docs build/docs
	cp -r figures/shown build/docs/figures
	cp --parents $$(grep -oh '(\.\./kedit/[^)#]*' docs/*.md | cut -c 5- | sort -u) build/docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict

# before a release, about 15 minutes: the wheel by itself and away from here, the documentation with
# its notebooks, and the lowest versions that pyproject.toml allows (needs Python >= 3.11)
release-check: $(VENV)/installed docs
	rm -rf build/release && mkdir -p build/release
	$(RUN) -m pip wheel --quiet --no-deps --wheel-dir build/release .
	$(PYTHON) -m venv build/release/clean
	build/release/clean/bin/pip install --quiet --constraint constraints.txt build/release/*.whl
	cd build/release && clean/bin/python -m experiments.trace_relation --model toy --limit 2 --out traced
	cd build/release && clean/bin/kedit edit --model toy --out edited && clean/bin/kedit report edited
	$(RUN) -m pytest -q -m "not real and not large and not faults" tests/test_notebooks.py tests/test_docs.py
	$(RUN) .ci/lowest.py > build/release/lowest.txt
	$(PYTHON) -m venv build/release/lowest
	build/release/lowest/bin/pip install --quiet --constraint build/release/lowest.txt \
	    "$$(ls $(CURDIR)/build/release/*.whl)[gemma,test]"
	# old versions beside new ones warn of each other
	build/release/lowest/bin/python -m pytest -q -n 2 --dist loadfile -W default

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[gemma,test]"
	touch $@

clean:
	rm -rf $(VENV)
