# The whole interface: make demo, make test, make test-services, make lint, make bench. Each installs what it needs and says so.

.PHONY: demo test test-services lint bench setup

# A small production site, a staging copy and a cluster between them; ARGS=--cluster for real processes and etcd.
demo: setup
	cargo run --release --bin reprise -- demo $(ARGS)

test: setup
	cargo test --workspace

# Against a real Kafka and a real OpenSearch, which need Java and are fetched once. Most of the time they wait.
test-services:
	@deploy/setup.sh services
	cargo test -p reprise-integration-tests --features services --test services -- --test-threads=4

# Advisories are left out: they need a database from the network, and change without a change of ours.
lint:
	@deploy/setup.sh lint
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --features reprise-integration-tests/services -- -D warnings
	cargo clippy --manifest-path fuzz/Cargo.toml --all-targets --target-dir target -- -D warnings
	cargo deny check bans licenses sources

# What capture and replay cost on this machine, as root, into bench/RESULTS.md; ARGS=--quick, or ARGS='--only cost,latency'.
bench:
	@deploy/setup.sh bench
	cargo build --release --bin reprise
	cargo run --release --bin bench -- $(ARGS)

setup:
	@deploy/setup.sh
