PYTHON ?= python3
# Package index for torch alone, for example one with CPU builds. Empty: pip's own choice.
TORCH_INDEX ?=

# What `make datasette` opens.
DATABASE ?= data/db/minivault.db

# Proxies that `make test-proxy` runs.
PROXIES ?= nginx caddy traefik

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
RUN_EXTRAS := api,worker,dashboard

.DEFAULT_GOAL := help
.PHONY: help up models test test-browser test-sdks test-proxy test-remote test-hosts test-datasette
.PHONY: compose-test chaos check kubernetes-check alerts-check bench datasette clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  PYTHON=python3.12    the Python (3.11 or later) that .venv is made with"
	@echo "  TORCH_INDEX=URL      take torch from this index, for example one with CPU builds"

up: $(VENV)/.run ## Install, fetch the model, start everything; Ctrl-C stops it
	@exec $(BIN)/python scripts/foreground.py $(BIN)/minivault up

models: $(VENV)/.run ## Fetch the models that MINIVAULT_MODELS names
	@$(BIN)/minivault models pull

test: $(VENV)/.dev ## Run all tests, the last three minutes under faults
	@$(BIN)/python -m pytest -n 2 --dist loadfile
	@$(BIN)/python -m tests.chaos --streams 48 --faults 12 --seed 2671 --seconds 180

test-browser: $(VENV)/.dev ## Look at the dashboard with a headless Chromium, which it needs
	@$(BIN)/python -m pytest tests/browser

test-sdks: $(VENV)/.dev .cache/sdks/.installed ## OpenAI's SDKs, LangChain, LiteLLM and llm; needs npm
	@$(BIN)/python -m pytest tests/sdks

test-proxy: $(VENV)/.dev ## Stream through nginx, Caddy and Traefik, which it needs; PROXIES=nginx for some
	@PROXIES="$(PROXIES)" $(BIN)/python -m pytest tests/proxy

test-remote: $(VENV)/.dev ## Redis over TLS: needs openssl
	@$(BIN)/python -m pytest tests/remote

test-hosts: $(VENV)/.dev ## Workers on two hosts, cut off and killed: needs Linux, root, iproute2
	@$(BIN)/python -m pytest tests/hosts

test-datasette: $(VENV)/.dev $(VENV)/.datasette ## Open a database with the real Datasette
	@$(BIN)/python -m pytest tests/datasette

chaos: $(VENV)/.dev ## 500 streams under 60 faults at random: what is lost? (15 minutes)
	@$(BIN)/python -m tests.chaos

compose-test: $(VENV)/.dev ## Build the containers and kill them; needs a Docker engine with Compose
	@docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1 || \
	  { echo "make compose-test needs a running Docker engine and its Compose 2.24 or later" >&2; exit 1; }
	@$(BIN)/python -m pytest --timeout 2400 tests/compose

check: $(VENV)/.dev ## Style, types, import rules, the lock file, the docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python scripts/check_lock.py
	@$(BIN)/python scripts/check_docs.py

kubernetes-check: $(VENV)/.kubernetes ## Hold deploy/kubernetes to schemas; needs kubectl
	@$(BIN)/python scripts/check_kubernetes.py

alerts-check: ## Try deploy/prometheus/alerts.yml; needs promtool (Debian: prometheus)
	@promtool check rules deploy/prometheus/alerts.yml
	@promtool test rules deploy/prometheus/alerts_test.yml

bench: $(VENV)/.dev ## Measure the service beside what others would pick instead (3 minutes)
	@$(BIN)/python -m bench

datasette: $(VENV)/.datasette ## Look at the database in a browser; DATABASE=data/db/minivault.db
	@$(VENV)/datasette/bin/datasette $(DATABASE) --metadata deploy/datasette/metadata.yml

clean: ## Remove what make and the tests built; the data folder stays
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	rm -rf .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: what is installed already is not looked at again, so that no network is needed.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "MiniVault needs Python 3.11 or later; choose one with PYTHON=..." >&2; exit 1; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: constraints.txt | $(VENV)/.made
ifneq ($(TORCH_INDEX),)
	@echo "Installing torch from $(TORCH_INDEX)"
	@$(PIP_INSTALL) --no-deps --index-url $(TORCH_INDEX) torch
endif
	@touch $@

$(VENV)/.run: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing MiniVault into $(VENV)"
	@$(PIP_INSTALL) -e '.[$(RUN_EXTRAS)]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing MiniVault and its development tools into $(VENV)"
	@$(PIP_INSTALL) -e '.[dev]'
	@for each in "$$CXX" c++ g++ clang++; do command -v "$$each" >/dev/null && exit; done; \
	  echo "Installing a C++ compiler into $(VENV): there is none here"; \
	  $(PIP_INSTALL) ziglang==0.17.1
	@touch $(VENV)/.run $@

.cache/sdks/.installed: tests/sdks/node/package.json tests/sdks/others/requirements.txt
	@command -v npm >/dev/null || { echo "make test-sdks needs Node.js with npm" >&2; exit 1; }
	@echo "Installing SDKs into .cache/sdks"
	@mkdir -p .cache/sdks/node
	@cp tests/sdks/node/package.json .cache/sdks/node
	@npm install --prefix .cache/sdks/node --no-package-lock --no-audit --no-fund --silent
	@$(PYTHON) -m venv .cache/sdks/venv
	@.cache/sdks/venv/bin/python -m pip install --disable-pip-version-check --quiet \
	  -r tests/sdks/others/requirements.txt
	@touch $@

$(VENV)/.kubernetes: deploy/kubernetes/requirements.txt $(VENV)/.dev
	@echo "Installing schemas into $(VENV)"
	@$(PIP_INSTALL) -r $<
	@touch $@

$(VENV)/.datasette: deploy/datasette/requirements.txt | $(VENV)/.made
	@echo "Installing Datasette into $(VENV)/datasette"
	@$(PYTHON) -m venv $(VENV)/datasette
	@$(VENV)/datasette/bin/python -m pip install --disable-pip-version-check -r $<
	@touch $@
