# Two commands matter: `make demo` shows the product, `make test` proves it. Both bring what they need.
SHELL := /usr/bin/env bash
.DELETE_ON_ERROR:

CACHE := $(or $(HANSE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hanse)
DENY_VERSION := 0.18.9
DENY := $(CACHE)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny

.PHONY: demo test sim torture check lint deny advisories unit e2e bench clean help

help: ## What can be made
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: prerequisites ## Build and run three replicas of a hub with three simulated members
	cargo build --release --locked
	./target/release/hanse quickstart

test: prerequisites lint deny ## Everything: format, lints, dependencies, unit, scenario, simulation, real control planes
	@e2e/tools/build.sh >/dev/null
	cargo test --locked

torture: prerequisites ## Kill, stop, cut off and starve real replicas a thousand times (KILLS=…); takes an hour or two
	@e2e/tools/build.sh >/dev/null
	KILLS=$(or $(KILLS),1000) cargo test --locked --test e2e faults::rule_07_a_thousand_kills -- --exact --ignored --nocapture

sim: prerequisites ## Simulate groups of replicas, and whole federations, under faults for long (SEEDS=…), and print how many and how fast
	SEEDS=$(or $(SEEDS),100000) cargo test --release --locked --lib -- --exact --ignored --nocapture --test-threads=1 \
		sim::replicas::tests::long sim::story::tests::long

check: prerequisites ## The quick loop: everything that needs no control plane
	cargo test --locked --lib

lint: prerequisites ## Formatting, and clippy with warnings denied
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

deny: $(DENY) ## Licences, bans and sources of dependencies
	$(DENY) --locked check --hide-inclusion-graph bans licenses sources

advisories: $(DENY) ## Known advisories; needs the advisory database from the network
	$(DENY) check advisories

$(DENY):
	@echo "installing cargo-deny $(DENY_VERSION) into $(dir $(@D)) (once, a few minutes)"
	cargo install --locked --quiet --version $(DENY_VERSION) --root $(abspath $(@D)/..) cargo-deny

.PHONY: prerequisites
prerequisites:
	@for tool in cargo cc; do command -v $$tool >/dev/null || { echo "needed and not found: $$tool (Debian: apt-get install build-essential; Rust: https://rustup.rs)"; exit 1; }; done

clean: ## Remove what was built here (not the caches)
	cargo clean
