# The whole interface: make demo, make test, make lint. Each installs what it needs and says so.

.PHONY: demo test lint setup

# A small production site, a staging copy and a cluster between them; ARGS=--cluster for real processes and etcd.
demo: setup
	cargo run --release --bin reprise -- demo $(ARGS)

test: setup
	cargo test --workspace

# Advisories are left out: they need a database from the network, and change without a change of ours.
lint:
	@deploy/setup.sh lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny check bans licenses sources

setup:
	@deploy/setup.sh
