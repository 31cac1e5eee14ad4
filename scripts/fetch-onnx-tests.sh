#!/usr/bin/env bash
# Extracts the ONNX project's own tests from the PyPI package onnx to .onnx-tests/: tests of single
# operators (which the package computes), of small models, and the light models of its zoo. Does
# nothing if they are already there.
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.23.2
folder=.onnx-tests

if [ -e "$folder/version" ] && [ "$(cat "$folder/version")" = "$version" ]; then
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "fetching the tests of onnx $version"
python3 -m pip install --quiet --only-binary :all: --target "$work/site" "onnx==$version"
PYTHONPATH="$work/site" python3 scripts/dump_onnx_tests.py "$work/out"
echo "$version" >"$work/out/version"
rm -rf "$folder"
mv "$work/out" "$folder"
