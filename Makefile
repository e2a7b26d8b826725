# Each target sets everything up first; nothing has to be installed but Python 3.11 or newer.
.PHONY: help setup demo test check clean

help:
	@echo "make demo    watch a real video at its own pace and answer questions about it (ARGS='--speed 4')"
	@echo "make test    run the tests (ARGS='-k client')"
	@echo "make check   lint, types, import rules, generated code"
	@echo "make clean   remove .venv and caches"

setup:
	@scripts/setup

demo: setup
	@.venv/bin/tandem demo $(ARGS)

test: setup
	@scripts/test $(ARGS)

check: setup
	@scripts/check

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
