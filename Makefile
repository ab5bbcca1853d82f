.DEFAULT_GOAL := help
.PHONY: help develop install format installed lint types fast test heavy check

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

# Strict: every file is linked one by one, so that pytest, mypy and an editor find the package as users have it.
develop:  ## Install for work on the code; again after adding, moving or deleting a file (minutes the first time)
	rm -rf build *.egg-info
	pip install -q -c constraints.txt -e '.[dev]' --config-settings editable_mode=strict

install:  ## Install as users do, not editable
	rm -rf build *.egg-info
	pip install -q --no-deps .
	rm -rf build *.egg-info

# A strict editable install does not see files added since, and a plain one no change at all.
installed:
	@python .ci/installed.py

format:  ## Rewrite what ruff can
	ruff format .
	ruff check --fix .

lint:  ## Format and lint, changing nothing
	ruff format --check .
	ruff check .

types: installed  ## mypy over the installed package
	mypy -p evalgpt

fast: installed lint types  ## What an edit needs, about a minute: lint, types, the tests that are not marked slow
	pytest -q -m 'not slow'

test: installed  ## The README's test command
	pytest

heavy: installed  ## What pytest leaves out: real models, other tools, simulations (half an hour)
	pytest -n 0 -m 'slow_model or peer'
	pytest -m simulation

check: lint types test heavy  ## All that CI checks of the code, with the installation at hand
