# podwright: every target sets up what it needs; `make` alone lists them.
# Nothing is installed that is there already, so the second run of a target begins at once.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Debian's own interpreter first: another python3 in PATH may be any version.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3.11 /usr/bin/python3) python3)
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps

# Where packages are unpacked that must not be installed.
UNPACKED := $(VENV)/debian
export PATH := $(CURDIR)/$(UNPACKED)/usr/bin:$(PATH)

PACKAGES := python3-venv
RUN_PACKAGES := busybox-static iproute2 libseccomp2 nftables util-linux
TEST_PACKAGES := $(RUN_PACKAGES) conntrack containerd crun openssl runc runsc skopeo
BENCH_PACKAGES := $(RUN_PACKAGES) containerd containernetworking-plugins crun e2fsprogs iptables runc

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

.PHONY: run
run: $(STAMPS)/venv $(STAMPS)/run-packages $(STAMPS)/registry ## a pod's whole life on a scratch node, shown step by step (root)
	@$(BIN)/python -m e2e.demo

.PHONY: test
test: check $(STAMPS)/test-packages $(STAMPS)/registry ## check, then every test (root; without root the tests which need it are skipped)
	$(BIN)/pytest

.PHONY: guest
guest: $(STAMPS)/venv $(STAMPS)/registry ## tests that take systemd and cgroup v2, in a virtual machine that GUEST= boots (docs/testing.md)
	@[ -n "$(GUEST)" ] || { echo "GUEST= is to name what boots the machine: see docs/testing.md" >&2; exit 2; }
	@e2e/systemd/stage.sh $(VENV)
	$(GUEST) $(VENV)/guest -- sh e2e/systemd/run.sh

.PHONY: check
check: $(STAMPS)/venv ## format, lint, types, who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench
bench: $(STAMPS)/venv $(STAMPS)/bench-packages $(STAMPS)/registry ## measure against containerd with runc and crun (root; minutes)
	$(BIN)/python -m e2e.bench $(BENCH)

.PHONY: load
load: $(STAMPS)/venv $(STAMPS)/run-packages $(STAMPS)/registry ## many pods with kubelet's habits, then thousands of lives (root; a quarter of an hour)
	$(BIN)/python -m e2e.load $(LOAD)

.PHONY: proto
proto: $(STAMPS)/venv ## write every *_pb2.py and .pyi anew from its .proto
	$(BIN)/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. $$(git ls-files '*.proto')

.PHONY: clean
clean: ## remove what the targets above made in this directory
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What the targets stand on. A stamp is older than what it was made from: it is made again.

$(STAMPS)/packages: Makefile .ci/packages
	@.ci/packages install $(PACKAGES)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/run-packages: Makefile .ci/packages
	@.ci/packages install $(RUN_PACKAGES)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/test-packages: Makefile .ci/packages
	@.ci/packages install $(TEST_PACKAGES)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/bench-packages: Makefile .ci/packages
	@.ci/packages install $(BENCH_PACKAGES)
	@mkdir -p $(STAMPS) && touch $@

# Unpacked, not installed: the Debian packages start a registry on port 5000 of every address, and
# load the node's AppArmor profiles; the tests compile one.
$(STAMPS)/registry: Makefile .ci/packages
	@.ci/packages unpack $(UNPACKED) docker-registry apparmor
	@mkdir -p $(STAMPS) && touch $@

$(BIN)/python: | $(STAMPS)/packages
	@$(PYTHON) -m venv $(VENV)

$(STAMPS)/venv: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) (a minute, once)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@mkdir -p $(STAMPS) && touch $@
