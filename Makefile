# Thin: each target is one or two commands you could type yourself.
.DEFAULT_GOAL := help
CARGO ?= cargo
ARGS ?=
WEB := fleetcore-http/web
VENV ?= .venv

MACOS := x86_64-apple-darwin

.PHONY: help alone macos run web test test-rust test-web test-python test-api lint doc bench behavior stress deny features fuzz openapi

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

run: web ## Build everything and start the server with its UI on 127.0.0.1:7070 (ARGS="--listen ...")
	$(CARGO) run --release --locked -p fleetcore-cli -- serve $(ARGS)

web: $(WEB)/dist/index.html ## Build the browser front end

$(WEB)/node_modules/.package-lock.json: $(WEB)/package-lock.json
	cd $(WEB) && npm ci --no-audit --no-fund

$(WEB)/dist/index.html: $(WEB)/node_modules/.package-lock.json $(shell find $(WEB)/src $(WEB)/index.html -type f 2>/dev/null)
	cd $(WEB) && npm run build

test: lint test-rust test-web test-python test-api ## Everything CI runs

lint: alone ## Formatting, clippy, docs, without a warning
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet

test-rust: web ## Unit tests, doc tests, the behaviour suite
	$(CARGO) test --locked --workspace

test-web: web ## Type check, unit tests, and the browser tests in a real Chromium
	$(CARGO) build --locked -p fleetcore-cli
	cd $(WEB) && npm run check && npm test
	cd $(WEB) && FLEETCORE_BIN="$$(cd ../.. && scripts/bin-path)" npm run e2e

test-python: $(VENV)/bin/maturin ## Build the wheel into a virtual environment, run its tests, check types and stubs, build its API reference
	$(CARGO) build --locked -p fleetcore-cli
	$(VENV)/bin/maturin build --quiet --locked --features pyo3/extension-module,abi3,like-cli -m fleetcore-py/Cargo.toml --out "$(abspath $(VENV))/wheels"
	$(VENV)/bin/python -m pip install --quiet --force-reinstall --no-deps $(VENV)/wheels/fleetcore-*.whl
	cd fleetcore-py && FLEETCORE_BIN="$$(../scripts/bin-path)" "$(abspath $(VENV))/bin/python" -m pytest -q $(ARGS)
	$(VENV)/bin/python fleetcore-py/scripts/reference.py "$(abspath $(VENV))/reference"

test-api: $(VENV)/bin/schemathesis ## Throw garbage at every endpoint of a live server
	$(CARGO) build --locked -p fleetcore-cli
	VENV="$(abspath $(VENV))" scripts/schemathesis

$(VENV)/bin/python:
	python3 -m venv $(VENV)

$(VENV)/bin/maturin: $(VENV)/bin/python fleetcore-py/requirements-dev.txt
	$(VENV)/bin/python -m pip install --quiet -r fleetcore-py/requirements-dev.txt
	touch $(VENV)/bin/maturin

$(VENV)/bin/schemathesis: $(VENV)/bin/maturin

doc: ## API documentation
	$(CARGO) doc --no-deps --workspace --open

bench: ## Criterion, each beside its floor; prints a table of ratios
	scripts/bench $(ARGS)

behavior: ## The behaviour suite over one backend: make behavior BACKEND=local
	FLEETCORE_TEST=$(or $(BACKEND),local) $(CARGO) test --locked -p fleetcore --test behavior

stress: ## The behaviour suite N times: make stress N=20
	for i in $$(seq 1 $(or $(N),20)); do $(CARGO) test --locked -q -p fleetcore --test behavior || exit 1; done

deny: ## Licences, sources and bans of all dependencies, known vulnerabilities (needs cargo-deny)
	$(CARGO) deny --all-features check --hide-inclusion-graph $(ARGS)

# In the workspace every package gets the features that any of them asks for; users build one of them.
alone: ## Every package as its users build it, without the features of its neighbours
	@set -e; for p in fleetcore fleetcore-testkit fleetcore-http fleetcore-cli fleetcore-py fleetcore-examples fleetcore-benches; do \
	    echo "$$p"; $(CARGO) check --locked --quiet -p $$p; done

# Each feature on its own, none and all; the lints say what is unused in one combination only.
CHECK = $(CARGO) clippy --locked --quiet
features: ## Every feature alone, none, and all, without a warning
	@set -e; for f in "" local multipass sandbox sqlite metrics ssh local,sqlite local,sqlite,metrics; do \
	    echo "fleetcore [$$f]"; $(CHECK) -p fleetcore --no-default-features --features "$$f" -- -D warnings; done
	@set -e; for f in "" batwa client mcp openhands otel client,otel; do \
	    echo "fleetcore-http [$$f]"; $(CHECK) -p fleetcore-http --no-default-features --features "$$f" -- -D warnings; done
	@set -e; for p in fleetcore fleetcore-http fleetcore-cli; do \
	    echo "$$p [all]"; $(CHECK) -p $$p --all-features --all-targets -- -D warnings; done

fuzz: ## Every fuzz target for S seconds: make fuzz S=60 (needs cargo-fuzz and the nightly toolchain)
	@set -e; for d in fleetcore fleetcore-http; do for t in $$(cd $$d && $(CARGO) +nightly fuzz list); do \
	    echo "$$d $$t"; (cd $$d && $(CARGO) +nightly fuzz run $$t -- -max_total_time=$(or $(S),10) -rss_limit_mb=4096); done; done

macos: ## Check that the core compiles for macOS (rustup target add $(MACOS))
	$(CARGO) check --locked --target $(MACOS) -p fleetcore --no-default-features --features local,multipass

openapi: ## Write fleetcore-http/openapi.json anew and the front end's types from it
	FLEETCORE_UPDATE_OPENAPI=1 $(CARGO) test --locked -p fleetcore-http --test api document
	cd $(WEB) && npm run types
