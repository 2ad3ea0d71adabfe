SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup charmcraft format lint unit functional contract test test-mysql integration soak podends points limits demo bench fresh pack lock clean

export TMPDIR := $(shell scripts/tmpdir.sh)
BIN := .venv/bin
CODE := src lib tests
LOCK = $(or $(shell command -v uv),.cache/tools/bin/uv) pip compile -q --upgrade --generate-hashes --no-header --universal

help: ## show the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 14

setup: ## install what the tests need: system packages by apt, Python packages into .venv
	@scripts/system-packages.sh 3.11
	@scripts/venv.sh .venv 3.11 requirements-dev.txt

# tests/unit/test_packaging.py asks charmcraft whether it accepts the project.
charmcraft:
	@scripts/venv.sh .cache/charmcraft 3.11 requirements-pack.txt || \
		echo "setup: charmcraft could not be installed: its tests are skipped" >&2

format: setup ## format the code and sort its imports
	$(BIN)/ruff check --select I --fix $(CODE)
	$(BIN)/ruff format $(CODE)

lint: setup ## check style, types, spelling and the conventions of charms
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/pyright
	$(BIN)/codespell
	scripts/charmlint.sh

unit: setup charmcraft ## test the charm against a simulated Juju
	@scripts/test.sh 0 tests/unit

functional: setup ## test the charm, its server and the mirror's database as real processes
	$(BIN)/python -m pytest tests/functional tests/agent tests/mysql

contract: setup ## test that the stand-in server does what the real server does
	$(BIN)/python -m pytest tests/contract

# The points have targets of their own: functional, and points for many more of them.
# What waits longest is a set of its own.
LONG := tests/functional/test_backups.py tests/functional/test_mirror.py
APART := $(addprefix --ignore=,$(LONG) tests/functional/test_points.py)
test: setup charmcraft ## every test that needs no Juju, with the branch coverage of src
	@scripts/test.sh 95 "tests/unit tests/badger tests/limits tests/integration/without_juju" \
		"tests/archive tests/mysql" \
		"tests/functional $(APART)" "$(LONG)" "tests/agent tests/contract"

test-mysql: setup ## test the mirror against MySQL proper instead of MariaDB
	@scripts/mysql-rootfs.sh .cache/mysql-rootfs
	DITTOFS_TEST_MYSQLD=.cache/mysql-rootfs $(BIN)/python -m pytest tests/mysql tests/agent

integration: setup ## test the packed charm on a real Juju, where there is one
	$(BIN)/python -m pytest tests/integration

soak: setup ## kill, stop and cut everything at random for SECONDS (120), with each of SEEDS, then compare
	@PYTHONPATH=src:lib $(BIN)/python -m tests.soak --seconds $(or $(SECONDS),120) $(if $(SEEDS),--seed $(SEEDS)) $(ARGS)

podends: setup ## end pods under load, lose their metadata and compare, ROUNDS (50) times
	@PYTHONPATH=src:lib $(BIN)/python -m tests.soak.podends --rounds $(or $(ROUNDS),50) $(ARGS)

points: setup ## kill everything at random points of backups and restores, POINTS (200) times
	@PYTHONPATH=src:lib $(BIN)/python -m tests.soak.backups --points $(or $(POINTS),200) $(ARGS)

limits: setup ## fill and overwrite the content volume for SECONDS (600), kill, and compare every byte
	@PYTHONPATH=src:lib $(BIN)/python -m tests.limits --seconds $(or $(SECONDS),600) $(ARGS)

demo: setup ## show the whole life of the charm on real processes
	@PYTHONPATH=src:lib $(BIN)/python -m tests.demo

bench: setup ## measure the figures of the README
	@PYTHONPATH=src:lib $(BIN)/python -m tests.bench

fresh: ## demo and test on fresh Debian systems, as root: ROWS=a,b JOBS=1 STEPS=demo,test TESTS=folders
	@scripts/fresh.sh $(if $(ROWS),--rows "$(ROWS)") $(if $(JOBS),--jobs "$(JOBS)") \
		$(if $(STEPS),--steps "$(STEPS)") $(if $(TESTS),--tests "$(TESTS)") $(ARGS)

pack: ## build the charm with charmcraft
	@scripts/pack.sh

lock: setup ## raise every pinned version to the newest that pyproject.toml allows
	$(LOCK) --python-version 3.12 --group agent pyproject.toml -o requirements.txt
	$(LOCK) --python-version 3.11 --group dev pyproject.toml -o requirements-dev.txt
	$(LOCK) --python-version 3.11 --group pyproject.toml:tools -o requirements-tools.txt
	$(LOCK) --python-version 3.12 --group pyproject.toml:charmlint -o requirements-charmlint.txt
	$(LOCK) --python-version 3.11 --group pyproject.toml:pack -o requirements-pack.txt

clean: ## remove what the other targets made, but not .venv
	rm -rf .cache .coverage .coverage.* .hypothesis .pytest_cache .ruff_cache *.charm
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
