.PHONY: install format lint types test check

# A plain install, not an editable one: what is tested and type-checked is what users get.
install:
	rm -rf build *.egg-info
	pip install -q --no-deps .
	rm -rf build *.egg-info

format:
	ruff format .
	ruff check --fix .

lint:
	ruff format --check .
	ruff check .

types: install
	mypy -p evalgpt

test: install
	pytest

check: lint types test
