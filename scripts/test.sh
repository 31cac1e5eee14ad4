#!/usr/bin/env bash
# Runs all checks of the project. Needs Rust, a C compiler and Python 3 with pip. Installs missing parts:
# ONNX Runtime to .onnxruntime/, the ONNX project's tests to .onnx-tests/, OpenBLAS with apt-get if
# possible.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

step "ONNX Runtime"
scripts/fetch-onnxruntime.sh
# The tests run on both engines. A missing engine is a failure, not a skipped test.
export GRADALIGN_REQUIRE_ORT=1
unset ORT_DYLIB_PATH

step "the ONNX project's tests"
scripts/fetch-onnx-tests.sh
export GRADALIGN_REQUIRE_ONNX_TESTS=1

step "OpenBLAS"
openblas() { printf 'int main(void){return 0;}' | cc -x c - -lopenblas -o /dev/null 2>/dev/null; }
if ! openblas && command -v apt-get >/dev/null; then
    as_root apt-get update -qq && as_root apt-get install -y -qq libopenblas-dev >/dev/null || true
fi
lapack=()
if openblas; then
    lapack=(--features lapack)
else
    echo "libopenblas-dev is not here and cannot be installed: LAPACK is NOT tested, faer alone is."
fi

step "formatting and lints"
cargo fmt --check
cargo clippy --locked --all-targets "${lapack[@]}" -- -D warnings

step "the library without the command line"
for features in "" data experiment ort registry store tract workers; do
    cargo clippy --locked --lib --no-default-features --features "$features" -- -D warnings
done

step "licences and sources of dependencies"
if command -v cargo-deny >/dev/null; then
    cargo deny --locked check bans licenses sources
else
    echo "cargo-deny is not here: licences are NOT checked."
fi

# One build runs all tests: with the feature, the tests of linear algebra use both back-ends.
step "tests"
if command -v cargo-nextest >/dev/null; then
    cargo nextest run --locked --no-fail-fast "${lapack[@]}"
else
    cargo test --locked --no-fail-fast --lib --bins --tests --examples "${lapack[@]}"
fi

step "documentation"
cargo test --locked --quiet --doc "${lapack[@]}"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet "${lapack[@]}"

step "all checks passed"
