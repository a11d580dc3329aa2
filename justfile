# Each recipe is one plain line that works without `just` too; CONTRIBUTING.md lists them.

check:
    cargo check --workspace --all-targets --all-features

fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets --all-features -- -D warnings

test:
    cargo test --workspace --all-features

test-root:
    sudo -E REQUIRE_PEERS=1 "$(which cargo)" test --workspace --all-features

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features

deny:
    cargo deny check licenses bans sources

bench:
    cargo bench
