# Wraps cargo and the installation of what the tests drive; every check itself is a `cargo test` or `cargo clippy`.
# A variable such as CONSUL_BIN that is set already wins over what `make tools` installs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test tools lint bench

TOOLS := $(CURDIR)/.tools
# Options of the demo: make demo ARGS='--for 30s'
ARGS ?=

export CONSUL_BIN ?= $(TOOLS)/consul/usr/bin/consul
export PEBBLE_BIN ?= $(TOOLS)/pebble/usr/bin/pebble
export PEBBLE_CHALLTESTSRV_BIN ?= $(TOOLS)/pebble/usr/bin/pebble-challtestsrv
export PROMETHEUS_BIN ?= $(TOOLS)/prometheus/usr/bin/prometheus
export PROMTOOL_BIN ?= $(TOOLS)/prometheus/usr/bin/promtool
export TRAEFIK_BIN ?= $(TOOLS)/traefik/traefik

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 16
	@echo
	@echo '  Tests that drive a foreign program read its path from CONSUL_BIN, PEBBLE_BIN, PEBBLE_CHALLTESTSRV_BIN,'
	@echo '  PROMETHEUS_BIN, PROMTOOL_BIN and TRAEFIK_BIN; what is not set is installed into .tools/ by `make tools`.'

demo: ## show the main job on this machine: catalog, instances, load, a swap and a bad version (ARGS='--for 30s' ends by itself)
	@tests/tools/install.sh cmake
	cargo run --locked -- demo $(ARGS)

test: tools ## run every test, also those against a real Consul, Pebble, Prometheus and Traefik
	cargo test --locked -- --include-ignored

tools: ## install what the tests drive into .tools/ (and cmake, which the build needs, as root with apt)
	@tests/tools/install.sh

lint: ## formatting and clippy, warnings are errors
	@tests/tools/install.sh cmake
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

bench: ## the benchmarks of benches/
	@tests/tools/install.sh cmake
	cargo bench --locked $(ARGS)
