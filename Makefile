# All the set-up there is. From a bare machine with Python 3.11: `make demo`, `make test`.

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
JOBS    ?= 2

# A regular install starts faster than an editable one, so the sources are copied into the
# environment; the stamp's name is their digest, so that they are copied again when they changed.
SOURCES := $(shell { find builder grammar layerstore -type f \( -name '*.py' -o -name '*.lark' \); echo pyproject.toml; } | LC_ALL=C sort)
DIGEST  := $(shell cat $(SOURCES) README.md 2>/dev/null | sha256sum | cut -c1-16)-$(words $(SOURCES))
STAMP   := $(VENV)/installed-$(DIGEST)

# The environment of a build machine may forbid byte code; start-up time is a feature here.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup packages demo test lint unit test-rootless bench clean

help:
	@echo 'make demo    set up, build a sample image, show its layers, run it'
	@echo 'make test    set up, check format, lint, types, and run all tests'
	@echo 'make test-rootless  as root: run the end-to-end tests as ordinary users, too'
	@echo 'make bench   set up, measure beside the tools of ../shared/peers'
	@echo 'make setup   only set up: .venv/bin/lamina'

setup: packages $(STAMP)

$(STAMP): | $(VENV)/ready
	@echo 'setup: installing lamina into $(VENV)'
	@rm -rf build lamina.egg-info $(VENV)/installed-*
	@$(BIN)/python -m pip install -qq --no-build-isolation '.[test]'
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib
	@cd $(VENV) && bin/python -c 'import grammar; grammar.warm()'
	@rm -rf build lamina.egg-info
	@touch $@

$(VENV)/ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed (make PYTHON=python3.11)")'
	@echo 'setup: making $(VENV) with $(PYTHON)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq 'setuptools>=70.1'
	@touch $@

# What `lamina bootstrap` makes base images of; everything else works without.
packages:
	@wanted=; for package in busybox-static mmdebstrap; do \
	  dpkg-query -W -f='$${db:Status-Abbrev}' $$package 2>/dev/null | grep -q '^ii' || wanted="$$wanted $$package"; \
	done; [ -z "$$wanted" ] && exit 0; \
	how="without it \`lamina bootstrap\` has nothing to make base images of"; \
	command -v apt-get >/dev/null || { echo "setup: no apt-get here: install$$wanted by hand; $$how"; exit 0; }; \
	[ "$$(id -u)" = 0 ] || { echo "setup: run as root once: apt-get install$$wanted; $$how"; exit 0; }; \
	echo "setup: apt-get install$$wanted"; export DEBIAN_FRONTEND=noninteractive; \
	install="apt-get install -y -qq --no-install-recommends$$wanted"; \
	$$install >/dev/null 2>&1 || { apt-get update -qq && $$install >/dev/null; } || \
	  echo "setup: that failed: install$$wanted by hand; $$how"

demo: setup
	@./sample-dockerfiles/demo.sh $(BIN)/lamina

test: setup lint unit

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

unit:
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# What `make test` has shown for root holds for others: for a user with subordinate ids, and for one
# without. What a user cannot do is listed at the end.
ROOTLESS := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -p no:cacheprovider tests/endtoend
test-rootless: setup
	.ci/as-user full $(ROOTLESS)
	.ci/as-user single $(ROOTLESS)

bench: setup
	$(BIN)/python bench/bench.py --lamina $(BIN)/lamina

clean:
	rm -rf $(VENV) build lamina.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
