#!/usr/bin/env bash
# Extracts ONNX Runtime's shared library from its PyPI wheel to .onnxruntime/, where gradalign finds it.
# Does nothing if it is already there.
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.32.0
folder=.onnxruntime

if [ -e "$folder/version" ] && [ "$(cat "$folder/version")" = "$version" ]; then
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "fetching ONNX Runtime $version"
python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$work" "onnxruntime==$version"
python3 - "$work" "$work/out" <<'PYTHON'
import sys
import zipfile
from pathlib import Path

source, target = map(Path, sys.argv[1:])
target.mkdir()
(wheel,) = source.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        parts = Path(name).parts
        is_library = ".so" in name or name.endswith((".dylib", ".dll"))
        if parts[:2] == ("onnxruntime", "capi") and is_library and "pybind" not in name:
            (target / parts[-1]).write_bytes(archive.read(name))
PYTHON
echo "$version" >"$work/out/version"
rm -rf "$folder"
mv "$work/out" "$folder"
