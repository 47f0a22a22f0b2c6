# On a new machine with Python >= 3.10, `make trace` and `make test` install all that they need.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# checks types and shapes at every call; the tests then take a third longer
TYPED = --jaxtyping-packages=kedit,probes,beartype.beartype

.PHONY: trace edit test quick cuda clean

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

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[gemma,test]"
	touch $@

clean:
	rm -rf $(VENV)
